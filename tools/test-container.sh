#!/bin/sh
# tools/test-container.sh ROOT [WHEEL]: the container's second half in a Debian 12 of debootstrap in the folder ROOT (as root, with network),
# for machines without a container engine. WHEEL: instead of compiling, which is the first half.
set -e
root=$1 wheel=$2 here=$(cd "$(dirname "$0")/.." && pwd)
# The machine's own package source, whichever that is.
mirror=$(sed -n 's/^URIs: *//p; s/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
[ -x "$root/usr/bin/apt-get" ] || debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror"
cp /etc/resolv.conf "$root/etc/" 2>/dev/null || true
cp -r /etc/ssl/certs "$root/etc/ssl/" && cp -r /etc/apt/apt.conf.d "$root/etc/apt/"
mkdir -p "$root/wheels" "$root/tmp/otbsr" "$root/opt/otbsr"
cp "$here/tools/container.sh" "$here/constraints.txt" "$root/tmp/otbsr/"
mount --bind /proc "$root/proc"
trap 'umount "$root/proc"' EXIT
if [ -n "$wheel" ]; then
  cp "$wheel" "$root/wheels/"
else
  mkdir -p "$root/src" && (cd "$here" && git ls-files -z | xargs -0 cp --parents -t "$root/src")
  chroot "$root" sh /src/tools/container.sh build /src /wheels
fi
chroot "$root" sh /tmp/otbsr/container.sh run /wheels /tmp/otbsr/constraints.txt
cp -r "$here/models" "$root/opt/otbsr/"
chroot "$root" su otbsr -c 'cd /data && PATH=/opt/otbsr/venv/bin:$PATH && id -un && otbsr doctor && otbsr simulate world --extent 480 --quiet &&
  otbsr apply world/sentinel2_10m.tif --model /opt/otbsr/models/f-light-x4 -o sr.tif --quiet'
echo "the container's steps work"
