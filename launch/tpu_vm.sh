#!/usr/bin/env bash
# Runs an experiment on a slice of Cloud TPUs: asks for the slice or takes the one that is there,
# copies this checkout to all of its workers, installs it, runs `promot run` on all of them, shows
# the log, and does so again on a new slice when this one is taken away.
#
# usage: bash launch/tpu_vm.sh [--dry-run] FLAGS EXPERIMENT [FLAGS of promot run]
#        bash launch/tpu_vm.sh [--dry-run] --delete --name NAME --zone ZONE [--project PROJECT]
#   --name NAME        of the slice and of the queued resource that asks for it
#   --zone ZONE        such as us-central2-b
#   --type TYPE        accelerator type, such as v4-128 or v5litepod-64
#   --version VERSION  of the TPU software (default: Google's for the type)
#   --project PROJECT  (default: gcloud's)
#   --spot             cheaper, and may be taken away at any time
#   --bucket gs://B    bucket for the run folder, with a hierarchical namespace:
#     gcloud storage buckets create gs://B --location REGION --uniform-bucket-level-access \
#       --enable-hierarchical-namespace
#   --nfs HOST:/SHARE  instead of a bucket: Filestore or another NFS server in the slice's network
#   --mount FOLDER     where the bucket or share is on every worker (default: /mnt/promot)
#   --delete-after     delete the slice when the run has ended well; without it the slice stays,
#                      and is paid for, until --delete
#   --delete           delete the slice and the request for it; the bucket stays
#   --dry-run          print every command, quoted for pasting, and run none
#
# The run folder is /mnt/promot/EXPERIMENT; --gin.MODEL_DIR sets another one below /mnt/promot.
# Data sets in /mnt/promot/tensorflow_datasets are found there.
# `promot` wants files there and does not understand gs://... Files of your own must be in this
# checkout or in the bucket. The lock of a run folder is taken by process 0 and holds on its machine
# only: give a run folder to one slice at a time.
#
# The run does not depend on this terminal. Ctrl-C ends the view only; the same command finds the
# run and shows it again. PROMOT_POLL_SECONDS sets the seconds between looks at a slice (30).

# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
poll="${PROMOT_POLL_SECONDS:-30}"
exec 3>&1 # what is printed inside $(...) by --dry-run

name="" zone="" type="" version="" project="" bucket="" nfs="" mount=/mnt/promot
spot=false delete=false delete_after=false
while [ $# -gt 0 ]; do
  case "$1" in
    --*=*)
      flag="$1"
      shift
      set -- "${flag%%=*}" "${flag#*=}" "$@"
      ;;
  esac
  case "$1" in
    --name | --zone | --type | --version | --project | --bucket | --nfs | --mount)
      [ -n "${2:-}" ] || die "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --spot) spot=true ;;
    --delete) delete=true ;;
    --delete-after) delete_after=true ;;
    --dry-run) dry_run=true ;;
    -h | --help)
      usage
      exit
      ;;
    -*) die "unknown flag $1; flags of promot run come after EXPERIMENT; --help lists the others" ;;
    *) break ;;
  esac
  shift
done

[ -n "$name" ] || die "--name is missing: the name of the slice"
[ -n "$zone" ] || die "--zone is missing, such as us-central2-b"
where=(--zone "$zone" --quiet)
[ -z "$project" ] || where+=(--project "$project")

note() { if "$dry_run"; then echo "# $1"; else say "$1"; fi; }
pause() { "$dry_run" || sleep "$poll"; }

# Prints what gcloud said in the file $errors.
reason() { grep -m 1 ERROR "$errors" || tail -n 1 "$errors"; }

# --- the slice ---

# Prints the state of the slice (tpu-vm) or of the request for it (queued-resources), NONE where
# there is none. Fails where gcloud does not say.
state() {
  local format=state answer
  [ "$1" = tpu-vm ] || format=state.state
  set -- gcloud compute tpus "$1" describe "$name" "${where[@]}" --format "value($format)"
  if "$dry_run"; then
    quoted "$@" >&3
    "$created" && echo READY || echo NONE
  elif answer=$("$@" 2>"$errors"); then
    echo "$answer"
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    say "gcloud cannot describe $name: $(reason)"
    return 1
  fi
}

create_slice() {
  local flags=(--accelerator-type "$type" --runtime-version "$version")
  "$spot" && flags+=(--spot)
  note "asking for $type in $zone as $name"
  run gcloud compute tpus queued-resources create "$name" --node-id "$name" \
    "${flags[@]}" "${where[@]}" ||
    die "gcloud refused the request for $name, see above; the same command asks again" 1
  created=true fresh=true
}

# A slice is deleted with the request that made it; one that was made otherwise has none.
delete_slice() {
  local request
  request=$(state queued-resources) || return 1
  note "deleting $name"
  if [ "$request" = NONE ]; then
    run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" || return 1
  else
    run gcloud compute tpus queued-resources delete "$name" --force "${where[@]}" || return 1
  fi
  created=false
}

# Returns when the slice is there. Sets fresh to whether it is new.
ensure_slice() {
  local slice request
  fresh=false
  while true; do
    slice=$(state tpu-vm) || slice=unknown
    case "$slice" in
      READY) return ;;
      PREEMPTED | TERMINATED | UNKNOWN) delete_slice || pause ;;
      STOPPED)
        die "$name is stopped; start it: gcloud compute tpus tpu-vm start $name --zone $zone"
        ;;
      NONE)
        request=$(state queued-resources) || request=unknown
        case "$request" in
          NONE) create_slice ;;
          SUSPENDED) delete_slice || pause ;;
          FAILED)
            die "the request for $name failed; see gcloud compute tpus queued-resources describe \
$name --zone $zone, then remove it: launch/tpu_vm.sh --delete --name $name --zone $zone"
            ;;
          *)
            note "waiting for $name: its request is $request"
            pause
            ;;
        esac
        ;;
      *)
        note "waiting for $name: it is $slice"
        pause
        ;;
    esac
  done
}

# --- the workers ---

on() { # WORKERS COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$1" --command "$2"
}

worker() { echo "cd promot_jax && bash launch/tpu_worker.sh $(quoted "$@")"; }

start_run() { # COMMAND...
  local archive="${TMPDIR:-/tmp}/promot_jax-$name.tar.gz"
  note "copying the checkout to all workers, installing it and starting the run"
  COPYFILE_DISABLE=1 run tar -czf "$archive" --exclude=./.git --exclude=./.venv --exclude=./runs \
    --exclude=./build --exclude=./dist --exclude=__pycache__ --exclude='.*_cache' \
    --exclude=.hypothesis . &&
    run gcloud compute tpus tpu-vm scp "$archive" "$name:promot_jax.tar.gz" "${where[@]}" \
      --worker all &&
    run rm -f "$archive" &&
    on all "rm -rf promot_jax && mkdir promot_jax && tar -xzf promot_jax.tar.gz -C promot_jax" &&
    on all "$(worker setup "${bucket:-$nfs}" "$mount")" &&
    on all "$(worker start "$@")"
}

# Prints what all workers together say: running COMMAND, ended CODE, gone or unreachable.
verdict() {
  local answers code=0 ask
  # A slice that was made otherwise has no checkout yet: its cd fails, and it has no run.
  ask="{ $(worker status); } 2>/dev/null || echo gone"
  if "$dry_run"; then
    on all "$ask" >&3
    echo "ended 0"
    return
  fi
  answers=$(on all "$ask") || code=$?
  if [ "$code" != 0 ]; then
    echo unreachable
  elif grep -qx gone <<<"$answers"; then
    echo gone
  else
    # A worker that runs, else one that failed, else any.
    grep -m 1 "^running " <<<"$answers" || grep -m 1 "^ended [^0]" <<<"$answers" || echo "ended 0"
  fi
}

# Shows the log until the run has ended. Fails when the slice, or the run on one worker, is lost.
watch() {
  local lines=+1 answer slice
  while true; do
    on 0 "$(worker follow "$lines")" || true
    lines=20
    answer=$(verdict)
    case "$answer" in
      "ended 0") return ;;
      gone)
        note "the run is lost on a worker, as after a restart; starting it again"
        return 1
        ;;
    esac
    pause # a slice that is taken away may say so only after its processes have ended
    slice=$(state tpu-vm) || slice=READY
    if [ "$slice" != READY ]; then
      note "$name is $slice"
      return 1
    fi
    case "$answer" in
      ended*)
        die "the run $answer; its log is above and on worker 0 in ~/promot_run; the same command \
continues it, --delete ends the costs" 1
        ;;
      *) note "the connection to $name is lost ($answer); trying again" ;;
    esac
  done
}

# --- the command ---

check_flags() {
  local flag folder
  [ -n "$type" ] || die "--type is missing: the accelerator type, such as v4-128"
  [ $# -gt 0 ] || die "EXPERIMENT is missing: what promot run shall run, such as mini"
  bucket="${bucket%/}"
  case "$bucket" in
    "") [ -n "$nfs" ] || die "give --bucket gs://BUCKET or --nfs HOST:/SHARE: all workers write \
there, and a run continues from there on a new slice" ;;
    gs://*/*) die "--bucket $bucket: give the bucket alone; --gin.MODEL_DIR chooses the folder" ;;
    gs://?*) [ -z "$nfs" ] || die "give --bucket or --nfs, not both" ;;
    *) die "--bucket $bucket: expected gs://BUCKET" ;;
  esac
  case "$nfs" in
    "" | ?*:/*) ;;
    *) die "--nfs $nfs: expected HOST:/SHARE" ;;
  esac
  experiment="$1"
  # One of ours by its whole name, such as paper/mt5_xxl/rte; a file of yours by its last part.
  folder="$experiment"
  [ "$folder" = "${folder%.gin}" ] || folder=$(basename "$folder" .gin)
  model_dir="--gin.MODEL_DIR='$mount/$folder'"
  for flag in "$@"; do
    case "$flag" in
      --gin.MODEL_DIR=*)
        folder=$(printf %s "${flag#*=}" | tr -d "'\"")
        case "$folder" in
          "$mount"/?*) model_dir="" ;;
          *) die "$flag: the run folder must be below $mount, which all workers share" ;;
        esac
        ;;
    esac
  done
  case "$type" in
    v5litepod-*) : "${version:=v2-alpha-tpuv5-lite}" ;;
    v5p-*) : "${version:=v2-alpha-tpuv5}" ;;
    v6e-*) : "${version:=v2-alpha-tpuv6e}" ;;
    *) : "${version:=tpu-ubuntu2204-base}" ;;
  esac
}

# Folders are renamed when they are complete; only such a bucket does that at once.
check_bucket() {
  local answer
  set -- gcloud storage buckets describe "$bucket" --raw \
    --format "value(hierarchicalNamespace.enabled)"
  if "$dry_run"; then
    quoted "$@"
    return
  fi
  answer=$("$@" 2>"$errors") || die "gcloud cannot describe $bucket: $(reason)"
  [ "$answer" = True ] || die "--bucket $bucket has no hierarchical namespace; --help has the \
command that makes one that has"
}

"$dry_run" || command -v gcloud >/dev/null ||
  die "gcloud is missing: https://cloud.google.com/sdk/docs/install"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
created=false fresh=false

if "$delete"; then
  created=true # what --dry-run shall assume
  slice=$(state tpu-vm) || exit 2
  request=$(state queued-resources) || exit 2
  [ "$slice$request" != NONENONE ] || die "there is no $name in $zone; nothing to delete" 0
  delete_slice
  exit
fi

check_flags "$@"
[ -z "$bucket" ] || check_bucket
shift
command=(promot run "$experiment" --distributed ${model_dir:+"$model_dir"} "$@")
"$dry_run" || state tpu-vm >/dev/null || exit 2 # a wrong name, zone or login ends here
trap 'say "the run goes on; the same command shows it again, --delete ends it"; exit 130' INT
failures=0
while true; do
  ensure_slice
  answer=gone
  "$fresh" || answer=$(verdict)
  case "$answer" in
    "running $(quoted "${command[@]}")") note "$name runs this already" ;;
    running*) die "$name is busy: $answer; wait for it, or take another --name" ;;
    *)
      if ! start_run "${command[@]}"; then
        failures=$((failures + 1))
        [ "$failures" -lt 3 ] || die "the run does not start on $name, see above; --delete ends \
the costs" 1
        pause
        continue
      fi
      failures=0
      ;;
  esac
  ! watch || break
done
note "the run has ended well"
if "$delete_after"; then
  delete_slice
elif "$dry_run"; then
  note "if the slice is taken away, this; then all from the first describe on again"
  delete_slice
else
  say "$name is still there and paid for; delete it: \
bash launch/tpu_vm.sh --delete --name $name --zone $zone${project:+ --project $project}"
fi
