#!/usr/bin/env bash
# What tpu_vm.sh has done on each worker of a slice, in the checkout that it copied there.
# usage: bash launch/tpu_worker.sh setup SHARED FOLDER   mount, link data, install
#        bash launch/tpu_worker.sh start COMMAND...      run it apart from this connection
#        bash launch/tpu_worker.sh follow LINES          its log, until it ends; LINES as tail's -n
#        bash launch/tpu_worker.sh status                running COMMAND, ended CODE or gone
# SHARED is gs://BUCKET or HOST:/SHARE (NFS); FOLDER is where it is mounted. The environment is in
# ~/promot_venv; log, exit code and process number are in ~/promot_run.

# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
state="$HOME/promot_run"
venv="$HOME/promot_venv"

apt_install() {
  # A new machine updates itself for some minutes and holds the lock meanwhile.
  local apt=(sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 --quiet)
  "${apt[@]}" update
  "${apt[@]}" --yes install "$1"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc from=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release --codename --short) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  apt_install gcsfuse
}

mount_shared() { # SHARED FOLDER
  local source="${1#gs://}" mounted probe
  mounted=$(findmnt --noheadings --output SOURCE --mountpoint "$2" || true)
  if [ -z "$mounted" ]; then
    sudo mkdir -p "$2"
    case "$1" in
      gs://*)
        sudo chown "$(id -u)" "$2"
        command -v gcsfuse >/dev/null || install_gcsfuse
        # What one worker writes must be seen by the others at once: no cache of names.
        gcsfuse --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$source" "$2"
        ;;
      *)
        command -v mount.nfs >/dev/null || apt_install nfs-common
        sudo mount -t nfs "$1" "$2"
        ;;
    esac
  elif [ "$mounted" != "$source" ]; then
    die "$2 holds $mounted, not $1; delete the slice (tpu_vm.sh --delete) or take another"
  fi
  # Permissions of a bucket show only when something is written.
  probe="$2/.writable-$(hostname)-$$"
  { : >"$probe" && rm "$probe"; } 2>/dev/null ||
    die "$2 cannot be written; let the service account of the slice write to $1"
}

setup() {
  mount_shared "$1" "$2"
  # Data sets of tfds are looked for in the home folder.
  [ ! -d "$2/tensorflow_datasets" ] || ln -sfn "$2/tensorflow_datasets" "$HOME/tensorflow_datasets"
  # The images have an older Python; uv brings its own. pip of newer systems asks for the variable.
  [ -x "$HOME/.local/bin/uv" ] ||
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  [ -x "$venv/bin/python" ] || "$HOME/.local/bin/uv" venv --quiet --python 3.11 "$venv"
  "$HOME/.local/bin/uv" pip install --quiet --python "$venv/bin/python" --editable ".[tpu]"
}

# The process number, if the process lives. A number from before a reboot says nothing.
alive() {
  local process boot
  [ -e "$state/process" ] && read -r process boot <"$state/process" &&
    [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] &&
    kill -0 "$process" 2>/dev/null && echo "$process"
}

start() {
  local process
  if process=$(alive); then
    kill -KILL -- "-$process"
  fi
  mkdir -p "$state"
  rm -f "$state/exit"
  [ ! -e "$state/log" ] || mv "$state/log" "$state/log.previous"
  quoted "$@" >"$state/command"
  # shellcheck disable=SC2016  # the inner shell expands it
  # With the TPUs named, JAX fails where it finds none, instead of training on the CPU.
  JAX_PLATFORMS=tpu,cpu PATH="$venv/bin:$PATH" nohup setsid bash -c '
    "$@" >"$0/log" 2>&1 && code=0 || code=$?
    echo "$code" >"$0/exit.partial" && mv "$0/exit.partial" "$0/exit"
  ' "$state" "$@" </dev/null >/dev/null 2>&1 &
  echo "$! $(cat /proc/sys/kernel/random/boot_id)" >"$state/process"
}

follow() {
  local process
  touch "$state/log"
  if process=$(alive); then
    tail -n "$1" -F -s 0.5 --pid "$process" "$state/log"
  else
    tail -n "$1" "$state/log"
  fi
}

status() {
  if [ -e "$state/exit" ]; then
    echo "ended $(cat "$state/exit")"
  elif alive >/dev/null; then
    echo "running $(cat "$state/command")"
  else
    echo gone
  fi
}

case "${1:-}" in
  setup | start | follow | status) "$@" ;;
  *) die "${1:-no command}: expected setup, start, follow or status; --help explains them" ;;
esac
