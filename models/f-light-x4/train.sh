#!/bin/sh
# The last stage of this model's training: landscapes (seed,metres,urban,day), pairs through PatchesExtraction, 25 minutes on 2 cores.
# It began from weights that are not kept (see README.md), so a run of it alone gives another, somewhat weaker model.
# usage: sh models/f-light-x4/train.sh WORKFOLDER
set -e
work=${1:?a folder to work in}
mkdir -p "$work/worlds" "$work/pairs"
pairs=""
for row in \
  100,1800,0.7,225 101,1800,0.9,225 102,1800,0.05,75 103,1800,0.2,180 104,1800,0.35,285 105,1800,0.5,255 \
  106,1800,0.7,225 107,1800,0.9,180 108,1800,0.05,255 109,1800,0.2,200 110,1800,0.35,165 111,1800,0.5,285 \
  112,1800,0.7,135 113,1800,0.9,180 114,1800,0.05,135 115,1800,0.2,105 116,1800,0.35,180 117,1800,0.5,285 \
  118,1800,0.7,135 119,1800,0.9,180 120,1800,0.05,105 121,1800,0.2,105 122,1800,0.35,200 123,1800,0.5,255 \
  124,1800,0.7,285 125,1800,0.9,105 126,1800,0.05,200 127,1800,0.2,225 128,1800,0.35,200 129,1800,0.5,165 \
  130,1800,0.7,225 131,1800,0.35,200 132,1800,0.5,135 133,1800,0.5,200 134,1800,0.5,285 135,1800,0.9,200 \
  136,1800,0.7,225 137,1800,0.05,135 138,1800,0.2,225 139,1800,0.05,285 140,1800,0.05,75 141,1800,0.7,75 \
  142,1800,0.7,255 143,1800,0.2,75; do
  old=$IFS; IFS=,; set -- $row; IFS=$old
  otbsr simulate "$work/worlds/$1" --seed "$1" --extent "$2" --urban "$3" --day "$4" --quiet
  [ -d "$work/pairs/$1" ] || otbsr pairs "$work/worlds/$1/sentinel2_10m.tif" "$work/worlds/$1/reference_2m5.tif" -o "$work/pairs/$1" --seed "$1" --quiet \
    --data "simulated landscapes (otbsr simulate, 1.8 km each, various towns and seasons), noise-free 2.5 m reference as target"
  pairs="$pairs $work/pairs/$1"
done
printf 'rate: 0.0005\nsteps: 100000\nvalidate_every: 250\n' > "$work/settings.yaml"
otbsr train $pairs -o "$work/f-light-x4" --settings "$work/settings.yaml" --minutes 25 --seed 100
