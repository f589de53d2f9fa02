#!/bin/sh
# How F-light x2 was trained, on two cores: training sets through otbsr's own commands, then one training each.
# The others are made here too, as they were before a GPU was to be had; the committed ones are tools/gpu_training.py's (README.md).
# Minutes are of wall time on a machine that did other work, so that another run ends elsewhere; seeds fix the order of the batches only.
# usage: sh models/train.sh WORKFOLDER NAIP_FOLDER [MODEL...]   (NAIP_FOLDER: the naip_1m scenes; the one in EPSG:26918 stays unseen)
set -e
work=${1:?a folder to work in} naip=${2:?the folder with the aerial scenes}
shift 2
models=${*:-f-base-x4 p-base-x4 f-light-x4 f-light-x4-10bands f-light-x2}
here=$(dirname "$0") python=${PYTHON:-python3}
b1=$naip/NAIP-VA-b
aerial="--aerial ${b1}1.tiff,${b1}2.tiff,${b1}3.tiff,${b1}4.tiff --aerial $naip/m_3607824_se_17_1_20160620_subset.tif"
"$python" "$here/../tools/training_data.py" "$work/pairs4" --landscapes 48 $aerial
"$python" "$here/../tools/training_data.py" "$work/pairs10" --landscapes 16 --valid-landscapes 2 --bands ten
"$python" "$here/../tools/training_data.py" "$work/pairs2" --landscapes 16 --valid-landscapes 2 --factor 2 $aerial
four=$(cat "$work/pairs4/pairs.list") two=$(cat "$work/pairs2/pairs.list")
real4=$(grep aerial "$work/pairs4/pairs.list") real2=$(grep aerial "$work/pairs2/pairs.list")
for model in $models; do
  out="$work/$model"
  case $model in # real texture is little: listed again, it is drawn more often
    f-base-x4)
      "$python" -m otbsr train $four -o "$work/f-base-x4-first" --size base --batch 16 --rate 0.001 --seed 1 --minutes 42
      "$python" -m otbsr train $four $real4 $real4 -o "$out" --size base --rate 0.0002 --seed 6 --minutes 8 --start-from "$work/f-base-x4-first" ;;
    p-base-x4)
      cat > "$work/p-base-x4.yaml" <<END
network: {size: base}
adversarial: {start: 0.0, ramp: 0.25}
steps: 100000
batch: 8
rate: 0.0002
warmup: 50
average: 0.995
validate_every: 200
END
      "$python" -m otbsr train $four -o "$out" --settings "$work/p-base-x4.yaml" --seed 2 --minutes 22 --start-from "$work/f-base-x4-first" ;;
    f-light-x4) # goes on from the model that is there
      "$python" -m otbsr train $four $real4 $real4 -o "$out" --size light --rate 0.0003 --seed 3 --minutes 8 --start-from "$here/f-light-x4" ;;
    f-light-x4-10bands)
      "$python" -m otbsr train $(cat "$work/pairs10/pairs.list") -o "$out" --size light --rate 0.001 --seed 4 --minutes 9 ;;
    f-light-x2)
      "$python" -m otbsr train $two $real2 -o "$out" --settings "$here/f-light-x2/train.yaml" --seed 5 --minutes 5 ;;
  esac
done
