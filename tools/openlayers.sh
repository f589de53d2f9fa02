#!/bin/sh
# Fetches the viewer's map library again, at the version named here, from the npm registry. Downloads.
set -e
version=10.11.0
page=$(cd "$(dirname "$0")/../python/otbsr/view/page" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && npm pack --silent "ol@$version" rbush@4 quickselect@3 earcut@3 pbf@5.1.2 >/dev/null)
cd "$scratch"
for file in *.tgz; do mkdir "${file%.tgz}" && tar xzf "$file" -C "${file%.tgz}" --strip-components 1; done
sed '/sourceMappingURL/d' "ol-$version/dist/ol.js" >"$page/ol.js"
cp "ol-$version/ol.css" "$page/ol.css"
{
  echo "OpenLayers $version: ol.js and ol.css are dist/ol.js (without its note on a source map) and ol.css of the npm package ol."
  echo "tools/openlayers.sh fetches them. dist/ol.js holds rbush, quickselect, earcut and pbf; their licences follow that of OpenLayers."
  for folder in ol-*/ rbush-*/ quickselect-*/ earcut-*/ pbf-*/; do
    echo
    echo "=== ${folder%/} ==="
    cat "$folder"LICENSE*
  done
} >"$page/OPENLAYERS.txt"
echo "$page: OpenLayers $version"
