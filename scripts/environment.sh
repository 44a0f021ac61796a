# Sourced by the other scripts: makes and keeps the virtual environment `.venv` at the root of the checkout.
#
# prepare_environment FILE...   installs the pinned requirements FILEs unless just these are installed already.
# install_packages NAME...      installs Debian packages that are missing, if it can: as root, with apt-get.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where it is set, as in many an image, each process of a service would compile the whole program anew when it starts.
unset PYTHONDONTWRITEBYTECODE

_fail() { printf 'facedex: %s\n' "$*" >&2; exit 1; }

_find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
  done
  _fail "Python 3.11 or newer is needed and was not found; set PYTHON to its path."
}

_make_venv() {
  local python=$1 log=$2
  "$python" -m venv --clear "$ROOT/.venv" >"$log" 2>&1 && return
  # Debian ships venv's pip bundle as a package of its own.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "python$version-venv"; } >>"$log" 2>&1 &&
      "$python" -m venv --clear "$ROOT/.venv" >>"$log" 2>&1 && return
  fi
  cat "$log" >&2
  _fail "could not make a virtual environment with $python; on Debian and Ubuntu install the package python3-venv."
}

# Whether $1 is installed: the environment works, was made for this very folder, and holds what the file says now.
_installed() {
  [ "$(cat "$ROOT/.venv/.made-in" 2>/dev/null)" = "$ROOT" ] && "$ROOT/.venv/bin/python" -c '' 2>/dev/null &&
    (cd "$ROOT" && sha256sum --check --status ".venv/.installed-$1" 2>/dev/null)
}

prepare_environment() {
  local file log python missing=() still=()
  for file in "$@"; do _installed "$file" || missing+=("$file"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  exec 9>"$ROOT/.venv.lock"   # two scripts started together must not install into each other
  if command -v flock >/dev/null 2>&1; then flock 9; fi
  log=$(mktemp)
  if [ "$(cat "$ROOT/.venv/.made-in" 2>/dev/null)" != "$ROOT" ] || ! "$ROOT/.venv/bin/python" -c '' 2>/dev/null; then
    python=$(_find_python) || exit 1
    echo "facedex: making the virtual environment .venv with $("$python" --version)" >&2
    _make_venv "$python" "$log"
    echo "$ROOT" >"$ROOT/.venv/.made-in"
  fi
  for file in "${missing[@]}"; do _installed "$file" || still+=(-r "$ROOT/$file"); done
  if [ ${#still[@]} -gt 0 ]; then
    echo "facedex: installing ${missing[*]} (pinned; once, about a minute)" >&2
    # Compiled afterwards, by all cores: pip uses one.
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --no-compile \
      "${still[@]}" >"$log" 2>&1 || { tail -n 20 "$log" >&2; _fail "installing ${missing[*]} failed."; }
    # Some packages bring files that are no Python of this version; they are nobody's to import.
    "$ROOT/.venv/bin/python" -m compileall -q -j 0 "$ROOT/.venv/lib" >/dev/null 2>&1 || true
    for file in "${missing[@]}"; do (cd "$ROOT" && sha256sum "$file" >".venv/.installed-$file"); done
  fi
  rm -f "$log"
  exec 9>&-
}

install_packages() {
  local log
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
  dpkg --status "$@" >/dev/null 2>&1 && return 0
  printf 'facedex: installing %s (Debian packages; once)\n' "$*" >&2
  log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 ||
    printf 'facedex: they cannot be installed: %s\n' "$(tail -n 1 "$log")" >&2
  rm -f "$log"
}
