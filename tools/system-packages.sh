#!/bin/sh
# Installs the Debian packages that otbsr needs (or those named as arguments), or says which are missing when it may not.
# otb-bin-qt, otb-qgis, otb-testdriver: OTB's CMake files refuse to load when any of OTB's own programs is missing.
set -e
packages="otb-bin otb-bin-qt otb-qgis otb-testdriver libotb-dev libboost-filesystem-dev libboost-serialization-dev libtinyxml-dev libfftw3-dev cmake g++ make python3-venv python3-dev"
[ $# -gt 0 ] && packages="$*"
missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
  as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root="sudo"
else
  echo "otbsr needs Debian packages that are not installed; run:" >&2
  echo "  sudo apt-get install$missing" >&2
  exit 1
fi
echo "installing Debian packages:$missing (some minutes)"
log=$(mktemp)
$as_root apt-get update >"$log" 2>&1 || { tail -n 5 "$log" >&2; echo "apt-get update failed; mend the package sources and call make again" >&2; exit 1; }
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >"$log" 2>&1 ||
  { tail -n 15 "$log" >&2; echo "apt-get install$missing failed (its log: $log)" >&2; exit 1; }
rm -f "$log"
