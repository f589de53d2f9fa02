#!/bin/sh
# tools/image.sh WORK [NAME]: the Dockerfile's image where no registry can be reached. Its base is made by debootstrap from this machine's own
# package source, and buildah builds it without a daemon. As root on Debian 12 with buildah and debootstrap; WORK: a folder with 15 GB free.
# Then `otbsr doctor`, a simulated landscape and `otbsr apply` in the image, as its user. The image stays in WORK/storage:
#   buildah --storage-driver DRIVER --root WORK/storage push NAME docker-archive:otbsr.tar:otbsr    # DRIVER: overlay or vfs, as the last line says
set -e
[ -n "$1" ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }
mkdir -p "$1/tmp" "$1/run"
work=$(cd "$1" && pwd) name=${2:-otbsr} driver=vfs here=$(cd "$(dirname "$0")/.." && pwd)
from=docker.io/library/debian:12-slim
export BUILDAH_ISOLATION=chroot TMPDIR="$work/tmp"
# Layers as overlays where they can be mounted here; vfs copies all of the image for each step.
mkdir -p "$work/try/a" "$work/try/b" "$work/try/c" "$work/try/d"
if mount -t overlay overlay -o "lowerdir=$work/try/a,upperdir=$work/try/b,workdir=$work/try/c" "$work/try/d" 2>/dev/null; then
  umount "$work/try/d"
  driver=overlay
fi
rm -rf "$work/try"
buildah()
{
  command buildah --storage-driver $driver --root "$work/storage" --runroot "$work/run" "$@"
}
if ! buildah inspect --type image $from >/dev/null 2>&1; then
  mirror=$(sed -n 's/^URIs: *//p; s/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
  rm -rf "$work/base"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/base" "$mirror"
  rm -f "$work/base"/var/cache/apt/archives/*.deb
  cp -r /etc/ssl/certs "$work/base/etc/ssl/" # those that this machine trusts, for pip too
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/base/etc/pip.conf"
  base=$(buildah from scratch)
  buildah copy --quiet "$base" "$work/base" /
  buildah config --cmd bash "$base"
  buildah commit --quiet --rm "$base" $from
  rm -rf "$work/base"
fi
version=$(git -C "$here" describe --tags --exact-match 2>/dev/null | sed 's/^v//') || true
buildah bud --pull-never --build-arg DEBIAN=$from --build-arg VERSION="$version" -t "$name" "$here"
there=$(buildah from --pull-never "$name")
trap 'buildah rm "$there" >/dev/null' EXIT
buildah run "$there" -- sh -c 'id -un && otbsr --version && otbsr doctor && otbsr simulate world --extent 480 --quiet &&
  otbsr apply world/sentinel2_10m.tif --model /opt/otbsr/models/f-light-x4 -o sr.tif --quiet && ls -l sr.tif'
echo "the image $name works (storage driver: $driver)"
