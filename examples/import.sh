#!/bin/sh
# Import a file with curl, wait for its end, show the account and what was rejected.
#
#     rollcall up &
#     sh examples/import.sh [FILE]
set -eu
url=${ROLLCALL_URL:-http://127.0.0.1:3000}
file=${1:-}

if [ -z "$file" ]; then
    file=$(mktemp)
    trap 'rm -f "$file"' EXIT
    printf 'name,email\nAnn,ann@example.com\nBob,bob\n' > "$file"
fi

job=$(curl -sS --fail "$url/import" -F source=example -F "file=@$file" | sed 's/.*"jobId":"\([^"]*\)".*/\1/')

import=$(curl -sS --fail "$url/imports/$job")
while echo "$import" | grep -q '"state":"\(queued\|running\)"'; do
    import=$(curl -sS --fail "$url/imports/$job?wait=10")
done
echo "$import"
curl -sS --fail "$url/imports/$job/rejects?format=csv"
