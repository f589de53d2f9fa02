#!/bin/sh
# tools/wheel.sh [WHEEL]: what a user does who has OTB and no sources. Builds a wheel (or takes WHEEL), installs it with its extra `cpu` into
# an empty virtual environment, outside the sources, and runs `otbsr doctor` and `otbsr apply` with the applications that the wheel carries.
# Keeps nothing but the wheel. Needs the package index; builds some minutes. OTBSR_MODEL: another model folder than models/bicubic-x4.
set -e
root=$(cd "$(dirname "$0")/.." && pwd)
model=${OTBSR_MODEL:-$root/models/bicubic-x4}
python=${PYTHON:-python3}
wheel=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$wheel" ]; then
  "$python" -m pip wheel --quiet --no-deps -c "$root/constraints.txt" -w "$root/dist" "$root"
  wheel=$(ls -t "$root"/dist/otbsr-*.whl | head -n 1)
fi
wheel=$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet -c "$root/constraints.txt" "$wheel[cpu]"
cd "$work" # neither the sources nor a build folder are in reach
unset PYTHONPATH OTBSR_APPLICATIONS OTB_APPLICATION_PATH OTB_TF_LIBRARY
PATH="$work/venv/bin:$PATH"
otbsr --version
otbsr doctor
python - <<'END'
import numpy, rasterio
pixels = numpy.random.default_rng(0).integers(300, 3000, (4, 48, 64)).astype("int16")
profile = dict(driver="GTiff", count=4, height=48, width=64, dtype="int16", crs="EPSG:32631", transform=rasterio.Affine(10, 0, 3e5, 0, -10, 48e5))
with rasterio.open("in.tif", "w", **profile) as file:
    file.write(pixels)
    file.descriptions = ("B4", "B3", "B2", "B8")
END
otbsr apply in.tif --model "$model" -o out.tif --quiet
otbcli_SuperResolution -in in.tif -model "$model" -out direct.tif int16 >/dev/null
python - <<'END'
import numpy, rasterio
with rasterio.open("out.tif") as made, rasterio.open("direct.tif") as direct:
    assert made.shape == (192, 256) and made.count == 4, (made.shape, made.count)
    assert numpy.array_equal(made.read(), direct.read())
print("the wheel works: 48 x 64 input pixels became 192 x 256, by otbsr and by otbcli alike")
END
