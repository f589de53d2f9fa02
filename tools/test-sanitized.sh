#!/bin/sh
# tools/test-sanitized.sh BUILD_FOLDER PYTHON [address|thread]: compiles everything with sanitizers and runs the unit tests and tests that run
# the applications. Fails on a failed test and on any report.
# address (the default): AddressSanitizer and UndefinedBehaviourSanitizer; fails also when an application was never run.
# thread: ThreadSanitizer, and the tests in which several threads of ours are at work.
# OTB, GDAL and TensorFlow are not instrumented: what they do wrong with their own memory is not seen, what they do with ours is (thread: when
# our code is on one side).
set -e
mkdir -p "$1"
build=$(cd "$1" && pwd)
python=$2
sanitizer=${3:-address}
source=$(pwd)
reports=$build/reports
log=$build/build.log

echo "compiling with the sanitizers into $1 (some minutes the first time; log: $log)"
{ cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DOTBSR_SANITIZE="$sanitizer" && cmake --build "$build" -j "$(nproc)"; } >"$log" 2>&1 ||
  { grep -E -A 5 'error|Error' "$log" | head -n 40 >&2; echo "cannot compile with the sanitizers, see $log" >&2; exit 1; }

rm -rf "$reports" && mkdir -p "$reports" "$build/launcher"
: >"$build/ran.txt"

# The sanitizers refuse to load a library with RTLD_DEEPBIND.
export OTB_TF_NODEEPBIND=1
if [ "$sanitizer" = thread ]; then
  runtime=$(gcc -print-file-name=libtsan.so)
  # TensorFlow keeps its memory in order by atomics that ThreadSanitizer does not see: what it does through malloc, memcpy and pthread_mutex
  # is no finding, nor are its waits for conditions, of which our code has none. GDAL holds its list of mutexes while it takes a new one.
  # Not ignore_noninstrumented_modules: here that ignores all that std::async runs.
  cat >"$build/threads.txt" <<END
called_from_lib:libtensorflow_cc.so.2
called_from_lib:libtensorflow_framework.so.2
mutex:std::condition_variable::wait
deadlock:std::condition_variable::wait
deadlock:CPLCreateOrAcquireMutexEx
END
  export TSAN_OPTIONS="exitcode=99:log_path=$reports/report:suppressions=$build/threads.txt:history_size=4:second_deadlock_stack=1"
else
  runtime="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
  # OTB's reader forgets its buffer when GDAL cannot read the file, its GeometriesProjectionFilter the reference system of the new layer.
  # Our own OSRNewSpatialReference (otbSamplingGrid) is held by a unique_ptr.
  printf 'leak:otb::ImageFileReader\nleak:OSRNewSpatialReference\n' >"$build/leaks.txt"
  # Leaks count, too.
  options="halt_on_error=1:exitcode=99:log_path=$reports/report:print_stacktrace=1"
  export ASAN_OPTIONS="$options:detect_leaks=1:detect_stack_use_after_return=1:handle_abort=1"
  export UBSAN_OPTIONS="$options"
  export LSAN_OPTIONS="suppressions=$build/leaks.txt:print_suppressions=0"
fi

# Only our applications get the runtime libraries, by a launcher that is found before OTB's. A test that expects an application to fail
# would take a finding for the failure: the reports are kept, and every end by the sanitizers (99) or by a fault's signal is one.
launcher=$(command -v otbApplicationLauncherCommandLine)
cat >"$build/launcher/otbApplicationLauncherCommandLine" <<END
#!/bin/sh
[ -e "$build/applications/otbapp_\$1.so" ] || exec "$launcher" "\$@"
echo "\$1" >>"$build/ran.txt"
errors=$build/launcher/errors.\$\$
LD_PRELOAD="$runtime" "$launcher" "\$@" 2>"\$errors"
status=\$?
cat "\$errors" >&2
case \$status in
  99 | 132 | 134 | 135 | 136 | 139) { echo "\$*"; echo "ended with \$status"; cat "\$errors"; } >"$reports/application.\$\$" ;;
esac
rm -f "\$errors"
exit \$status
END
chmod +x "$build/launcher/otbApplicationLauncherCommandLine"

run()
{
  PATH="$build/launcher:$PATH" PYTHONPATH="$source/python:$source/python/otbtf" OTBSR_APPLICATIONS="$build/applications" \
    "$python" -m pytest -q -p no:cacheprovider "$@"
}
failed=0
ctest --test-dir "$build" --output-on-failure -E '^pytest$' || failed=1
if [ "$sanitizer" = thread ]; then
  # Blocks read ahead and run two at a time, kept in memory and in a file, no-data, failures and interrupts in the middle; two sources;
  # patches by all threads, read ahead while others are written, through a temporary file; batches of a training.
  run test/python/serving/test_applications.py test/python/serving/test_tensorflow_model_serve.py test/python/serving/test_interrupts.py \
    test/python/serving/test_deep_features.py test/python/pairs/test_patches_extraction.py test/python/methods/test_training_application.py \
    -k "blocks_memory or (invalid_pixels and no-data) or (nothing_unfinished and out.tif) or two_sources or row_of_blocks or interrupts or in_memory or layout_order or damaged_input or full_disk or every_sample" || failed=1
else
  # All tests that start applications, and those of the C++ geometry, on two cores; but for memory, which the sanitizers use a lot of, and
  # for a limit of addresses, OTB's bindings and QGIS (Python and QGIS load the applications, without the sanitizers' runtime), the Python
  # API, alignment, the chain of pairs and the COG, which run no other code of ours in C++.
  others="test/python/pairs test/python/test_sampling_grid.py
    $(grep -rl run_application test/python --include='test_*.py' --exclude-dir=serving --exclude-dir=pairs --exclude-dir=otbtf --exclude-dir=qgis --exclude=test_bindings.py)"
  set -- -k 'not memory_does_not_grow and not memory_of_tensorflow_that_really' \
    --ignore=test/python/pairs/test_alignment.py --ignore=test/python/pairs/test_chain.py --ignore=test/python/serving/test_cog.py
  run "$@" $others >"$build/others.log" 2>&1 & # not those of serving: a shell's background ignores interrupts, which they send
  others=$!
  run "$@" test/python/serving || failed=1
  wait $others || failed=1
  cat "$build/others.log"

  for application in "$build"/applications/otbapp_*.so; do
    name=${application##*/otbapp_}
    grep -qx "${name%.so}" "$build/ran.txt" || { echo "no test has run ${name%.so} under the sanitizers" >&2; failed=1; }
  done
fi
for report in "$reports"/*; do
  [ -e "$report" ] || continue
  echo "$report:" >&2
  head -n 40 "$report" >&2
  failed=1
done
exit $failed
