#!/bin/sh
# What the Dockerfile and otbsr.def do within Debian 12, as root:
#   tools/container.sh build SOURCES WHEELS      compile and put the wheel into the folder WHEELS
#   tools/container.sh run WHEELS CONSTRAINTS    install OTB, the wheel into /opt/otbsr/venv, and a user who is not root
set -e
install()
{
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
  apt-get clean # not done by itself where the base was made by debootstrap
  rm -rf /var/lib/apt/lists/*
}
case $1 in
  build)
    install ca-certificates otb-bin otb-bin-qt otb-qgis otb-testdriver libotb-dev libboost-filesystem-dev libboost-serialization-dev libtinyxml-dev \
      libfftw3-dev cmake g++ make python3-venv python3-dev
    [ -z "$VERSION" ] || export SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION"
    python3 -m venv /opt/build
    /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps -c "$2/constraints.txt" -w "$3" "$2"
    ;;
  run)
    install ca-certificates otb-bin python3-venv util-linux
    python3 -m venv /opt/otbsr/venv
    /opt/otbsr/venv/bin/python -m pip install --no-cache-dir -c "$3" "$(ls "$2"/otbsr-*.whl)[cpu]"
    rm -rf /opt/otbsr/venv/lib/python3*/site-packages/tensorflow/include # 290 MB of headers: nothing is compiled here
    useradd --create-home otbsr
    mkdir -p /data && chown otbsr /data
    ;;
  *) echo "container.sh build SOURCES WHEELS | run WHEELS CONSTRAINTS" >&2; exit 64 ;;
esac
