#!/usr/bin/env bash
# All that a fresh Debian 12, Ubuntu 24.04 or newer lacks to run viewmill: one line a step, no prompt. The Makefile runs it
# before every target: what is in place is left alone, what was interrupted goes on, and nothing to do takes milliseconds.
#
#   ./setup.sh            system packages, virtual environment, pinned packages, viewmill itself (editable)
#   ./setup.sh packages   the same without viewmill itself: the first stage of the Dockerfile
#   ./setup.sh browser    only Chromium, with which `make test` opens the pages of `viewmill report`
#
#   PYTHON=python3.12                 the interpreter; otherwise the first that works, the one tested most before the others
#   VENV=.venv                        where the virtual environment goes
#   EXTRAS=dev,bench,dali-cuda13,parquet,timm,track,transfer,export,report    the extras of pyproject.toml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

upto=${1:-viewmill}
venv=$(realpath -m "${VENV:-.venv}")
extras=${EXTRAS-dev,bench,dali-cuda13,parquet,timm,track,transfer,export,report}
log=.make/setup.log
stamp=.make/installed

key() { # what the installation depends on; the stamp holds the key of the last complete one
    echo "$upto" "$venv" "$extras"
    "${PYTHON:-$venv/bin/python}" -V
    cat constraints.txt pyproject.toml
}
up_to_date() { [[ -x $venv/bin/python && -e $stamp && $(key 2>&1 | sha256sum) == "$(<"$stamp")" ]]; }

mkdir -p .make
exec 9>.make/lock
flock -n 9 || { echo "another set-up is running here: waiting for it" && flock 9; }
if [[ $upto != browser ]] && up_to_date; then
    printf '%-24s%s\n' set-up "up to date"
    exit
fi

# From here on people read descriptor 3, a line a step; all else goes to the log, whose end is shown when a step fails.
exec 3>&1 >"$log" 2>&1
begin() { printf '%-24s' "$1" >&3 && SECONDS=0; }
end() { printf '%s (%s s)\n' "$1" "$SECONDS" >&3; }
explain() { printf '%s\n' "$@" >&3 && trap - EXIT && exit 1; }
stopped() {
    printf 'stopped; %s ends with:\n' "$log" >&3
    tail -n 15 "$log" | cut -c 1-160 | sed 's/^/    /' >&3
    echo "Run the same command again to go on from here." >&3
}
trap '(($? == 0)) || stopped' EXIT

install_system() { # those of the packages named that are missing
    local root=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        root=(sudo -n "${root[@]}")
        sudo -n true || explain "missing" "Neither root nor sudo without a password. Run this once, then the same command again:" \
            "    sudo apt-get update && sudo apt-get install --no-install-recommends $*"
    fi
    "${root[@]}" apt-get -o DPkg::Lock::Timeout=300 update
    "${root[@]}" apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
}

if [[ $upto == browser ]]; then
    begin "browser"
    if command -v chromium chromium-browser google-chrome; then
        end "in place"
    elif command -v apt-get && (install_system chromium); then # Ubuntu has it as a snap alone
        end "installed: chromium"
    else
        end "none, and no package chromium here: the tests that open pages in it are skipped, and say so"
    fi
    exit
fi

begin "system packages"
system=(g++ libopencv-dev libturbojpeg0-dev pkg-config python3-dev python3-venv)
missing=()
if command -v apt-get dpkg-query; then
    for package in "${system[@]}"; do
        [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package") == installed ]] || missing+=("$package")
    done
elif ! { command -v g++ && pkg-config --exists opencv4 libturbojpeg; }; then
    explain "not found" "FFCV is compiled here and needs g++, pkg-config, and the headers of OpenCV 4, TurboJPEG and Python." \
        "This system has no apt-get: install them by hand. On Debian or Ubuntu it would be:" "    apt-get install ${system[*]}"
fi
if ((${#missing[@]} == 0)); then
    end "in place"
else
    install_system "${missing[@]}"
    end "installed: ${missing[*]}"
fi

begin "python"
usable() { # 3.11 or newer, can make an environment, has headers to compile FFCV against
    "$1" -c 'import ensurepip, os, sys, sysconfig, venv
print(sys.executable, sys.version)
sys.exit(sys.version_info < (3, 11) or not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
candidates=(python3.11 python3.12 python3.13 python3)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
for python in "${candidates[@]}"; do
    usable "$python" && break
    python=
done
[[ $python ]] || explain "not found" "Python 3.11 or newer with venv and headers is none of: ${candidates[*]}" \
    "Name one that is: make PYTHON=/path/to/python3.12"
end "$("$python" -c 'import platform, sys; print(platform.python_version(), sys.executable)')"

begin "virtual environment"
fit() { # it runs, nobody moved the folder since it was made, and it is of the Python that was asked for, if one was
    "$venv/bin/python" -m pip --version && grep -qF "$venv/bin/python" "$venv/bin/pip" &&
        [[ -z ${PYTHON:-} || $("$python" -V) == "$("$venv/bin/python" -V)" ]]
}
if fit; then
    end "in place"
else
    "$python" -m venv --clear "$venv"
    end "made"
fi

begin "packages (about 7 GB)"
# What an interrupted pip leaves: half-removed packages named ~*, and half-installed ones that it would take for installed,
# without the INSTALLER that it writes last.
rm -rf "$venv"/lib/python*/site-packages/~*
for package in "$venv"/lib/python*/site-packages/*.dist-info; do
    [[ -e $package/INSTALLER ]] || rm -rf "$package"
done
install=("$venv/bin/python" -m pip --no-input --disable-pip-version-check install --progress-bar off --constraint constraints.txt)
"${install[@]}" pip setuptools wheel
"$venv/bin/python" - "$extras" >.make/requirements.txt <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1].split(",") if name]
print(*project["dependencies"], *sum(extras, []), sep="\n")
END
# Without build isolation FFCV, which comes as source, is built by the pinned setuptools. OpenCV's pkg-config file names
# sixty libraries where FFCV calls two: --as-needed leaves the others out, and out of the container.
LDFLAGS="-Wl,--as-needed ${LDFLAGS:-}" "${install[@]}" --no-build-isolation --requirement .make/requirements.txt
end "installed"

if [[ $upto == viewmill ]]; then
    begin "viewmill"
    "${install[@]}" --no-deps --no-build-isolation --editable .
    end "installed, editable"
fi
key 2>&1 | sha256sum >"$stamp"
