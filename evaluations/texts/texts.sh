#!/usr/bin/env bash
# Texts to distil on beside a log of queries, from Debian's packages, into one folder.
#
#     bash evaluations/texts/texts.sh downloads/texts
#
# Wants Debian 12 with its package lists, curl, sqlite3 and the environment of `make setup`.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
mkdir -p "$1" && cd "$1"

apt-get download wordnet-base dict-gcide dict-foldoc r-bioc-go.db manpages manpages-dev \
    postgresql-doc-15 libreoffice-help-en-us gnucash-docs kicad-doc-en r-doc-html gimp-help-en \
    octave-doc debian-handbook debian-reference-en
for package in *.deb; do dpkg -x "$package" packages; done
curl -sSfO "${DEBIAN:-http://deb.debian.org/debian}/dists/bookworm/main/i18n/Translation-en.xz"

export PYTHONPATH=$here
share=packages/usr/share
texts() { "$python" "$here/beyond/texts.py" "$@"; }

texts $share/wordnet wordnet.txt
texts $share/dictd/foldoc.dict.dz foldoc.txt
texts $share/dictd/gcide.dict.dz all-gcide.txt
texts Translation-en.xz all-descriptions.txt
texts $share/man/man? $share/doc/gnucash-docs/gnucash-{guide,help}-en $share/doc/kicad/help \
    $share/doc/postgresql-doc-15 $share/libreoffice $share/R $share/gimp $share/doc/octave \
    $share/doc/debian-handbook/html/en-US $share/debian-reference all-manuals.txt
sqlite3 packages/usr/lib/R/site-library/GO.db/extdata/GO.sqlite \
    "select term from go_term union select term || ': ' || definition from go_term" > all-go.txt
# Those of `texts` come shuffled; the others are here, always alike.
for kind in gcide descriptions; do head -n 40000 all-$kind.txt > $kind.txt; done
sort -u all-manuals.txt | shuf --random-source=<(yes) | head -n 40000 > manuals.txt
sort -R --random-source=<(yes) all-go.txt | head -n 40000 > go.txt
wc -l wordnet.txt foldoc.txt gcide.txt descriptions.txt manuals.txt go.txt
