#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Who may connect, and how: TLS with certificates and with shared keys, ip, limit,
# tls-fallback, exportname, exitwhen, and options of the server.  Clients that come
# in that way read what they wrote, across a restart, and the disk has it.

. "$(dirname "$0")/functions.sh"
need certtool psktool qemu-img
use_seed
use_cache pmem

random_file source.img $((4 * MiB))
parameters=(file disk.img pmem="$cache" pmem-size=10M pcache-segment-size=1M
            pcache-writeback-delay=100ms)

# certificate NAME LINE...: made by our own authority.
certificate ()
{
  local name=$1
  shift

  printf '%s\n' "$@" > template
  certtool --generate-privkey --key-type=ecdsa --outfile "$name-key.pem"
  case $name in
    ca) certtool --generate-self-signed --load-privkey ca-key.pem \
                 --template template --outfile ca-cert.pem ;;
    *) certtool --generate-certificate --load-ca-certificate ca-cert.pem \
                --load-ca-privkey ca-key.pem --load-privkey "$name-key.pem" \
                --template template --outfile "$name-cert.pem" ;;
  esac
}

{
  certificate ca 'cn = Test' ca cert_signing_key
  certificate server 'cn = localhost' 'dns_name = localhost' \
              tls_www_server signing_key
  certificate client 'cn = client' tls_www_client signing_key
} > certtool.out 2>&1 || { cat certtool.out; fail "certtool"; }
mkdir pki anonymous
cp ca-cert.pem server-*.pem client-*.pem pki/
cp ca-cert.pem anonymous/
psktool -u alice -p psk.keys > psktool.out 2>&1
# Nobody's.
psktool -u alice -p wrong.keys > psktool.out 2>&1

# encrypted DESCRIPTION URI-USER URI-PARAMETER SERVER-OPTION...
encrypted ()
{
  local what=$1 secure="nbds+unix://$2/?socket=$dir/tls.sock&$3" i
  shift 3

  say "TLS: $what"
  cp source.img disk.img
  cp source.img model.img
  rm -f "$cache"
  for i in 1 2; do
    start_nbdkit tls "$@" --filter=pcache "${parameters[@]}"
    exercise "$secure" requests=30
    case $i in
      1) kill_hard tls ;;
      2) stop tls ;;
    esac
  done
  same disk.img model.img "$what"
}

# turned_away COMMAND...
turned_away ()
{
  if within 30 "$@" > client.out 2>&1; then fail "served: $*"; fi
}

encrypted "certificates" "" "tls-certificates=$dir/anonymous" \
          --tls=require --tls-certificates="$dir/pki"
encrypted "certificates, the client's verified" "" \
          "tls-certificates=$dir/pki" \
          --tls=require --tls-certificates="$dir/pki" --tls-verify-peer
encrypted "shared keys" "alice@" "tls-psk-file=$dir/psk.keys" \
          --tls=require --tls-psk="$dir/psk.keys"

say "TLS: who is turned away, and qemu"
start_nbdkit tls --tls=require --tls-certificates="$dir/pki" --tls-verify-peer \
             --filter=pcache "${parameters[@]}"
turned_away nbdinfo --size "$(uri tls)"
turned_away nbdinfo --size \
            "nbds+unix:///?socket=$dir/tls.sock&tls-certificates=$dir/anonymous"
within 60 qemu-img convert -O raw \
       --object tls-creds-x509,id=tls,endpoint=client,dir="$dir/pki" \
       --image-opts driver=nbd,server.type=unix,server.path="$dir/tls.sock",tls-creds=tls,tls-hostname=localhost \
       out.img
same out.img disk.img
stop tls
start_nbdkit tls --tls=require --tls-psk="$dir/psk.keys" \
             --filter=pcache "${parameters[@]}"
turned_away nbdinfo --size \
            "nbds+unix://alice@/?socket=$dir/tls.sock&tls-psk-file=$dir/wrong.keys"
stop tls

say "TLS or not: both see one disk"
start_nbdkit tls --tls=on --tls-psk="$dir/psk.keys" \
             --filter=pcache "${parameters[@]}"
secure="nbds+unix://alice@/?socket=$dir/tls.sock&tls-psk-file=$dir/psk.keys"
nbdsh -c 'h.set_uri_allow_local_file (True)' -c "h.connect_uri ('$secure')" \
      -c 'h.pwrite (b"secret", 0)' \
      -c 'assert h.get_tls_negotiated ()'
nbdsh -u "$(uri tls)" -c 'assert h.pread (6, 0) == b"secret"'
stop tls

say "tls-fallback above: who comes without gets a text, and not from the cache"
start_nbdkit tls --tls=on --tls-psk="$dir/psk.keys" --filter=tls-fallback \
             --filter=pcache "${parameters[@]}"
nbdsh -u "$(uri tls)" -c 'assert b"TLS" in h.pread (h.get_size (), 0)'
nbdsh -c 'h.set_uri_allow_local_file (True)' -c "h.connect_uri ('$secure')" \
      -c 'assert h.pread (6, 0) == b"secret"' \
      -c 'h.pwrite (b"SECRET", 0)'
stop tls
[ "$(head -c 6 disk.img)" = SECRET ] || fail "not written back"

refused fallback 'tls-fallback is to the right of pcache' -- \
        --filter=pcache --filter=tls-fallback "${parameters[@]}"

say "ip, limit"
start_nbdkit ip --filter=ip --filter=pcache "${parameters[@]}" deny=uid:"$(id -u)"
turned_away nbdinfo --size "$(uri ip)"
stop ip
start_nbdkit limit --filter=limit --filter=pcache "${parameters[@]}" limit=1
start_client limit 'assert h.pread (6, 0) == b"SECRET"'
turned_away nbdinfo --size "$(uri limit)"
end_client
is_free () { nbdinfo --size "$(uri limit)" > /dev/null 2>&1; }
until_true 20 is_free
stop limit

say "exportname gives the disk a name of its own"
for stack in "exportname pcache" "pcache exportname"; do
  read -r left right <<< "$stack"
  rm -f "$cache"
  start_nbdkit name --filter="$left" --filter="$right" "${parameters[@]}" \
     exportname=disk exportname-strict=true exportname-list=explicit \
     default-export=disk pcache-export=disk
  nbdinfo --list "$(uri name)" > list.out
  has_text list.out 'export="disk"' || fail "$stack: it is not listed"
  nbdsh -u "$(uri name disk)" -c 'assert h.pread (6, 0) == b"SECRET"'
  turned_away nbdinfo --size "$(uri name other)"
  stop name
done

for stack in "exitwhen pcache" "pcache exitwhen"; do
  say "$stack: nbdkit ends by itself, and everything is on the disk"
  read -r left right <<< "$stack"
  rm -f "$cache" there
  touch there
  start_nbdkit when --filter="$left" --filter="$right" "${parameters[@]}" \
     exit-when-file-deleted="$dir/there" exit-when-poll=1
  nbdsh -u "$(uri when)" -c "h.pwrite (b'$left', 0)" -c 'h.shutdown ()'
  rm there
  await when 30 || fail "$stack: exit code $?"
  [ "$(head -c ${#left} disk.img)" = "$left" ] || fail "not written back"
done

say "pcache twice"
refused twice 'only once' -- --filter=pcache --filter=log --filter=pcache \
        "${parameters[@]}" logfile=/dev/null

say "Options of the server"
for options in --oldstyle --no-sr --mask-handshake=0 --swap --threads=1; do
  case $options in
    # Then nbdkit refuses flush, FUA, zero and trim, though it offers them.
    --oldstyle) words=plain ;;
    *) words= ;;
  esac
  rm -f "$cache"
  cp disk.img model.img
  start_nbdkit option $options --filter=pcache "${parameters[@]}" \
     pcache-on-exit=keep
  exercise option requests=20 $words
  if [ "$words" ]; then stop option; else kill_hard option; fi
  start_nbdkit option $options --filter=pcache "${parameters[@]}"
  exercise option requests=20 $words
  stop option
  same disk.img model.img "$options"
done

say "Read only, whatever is around it"
cp disk.img before.img
rm -f "$cache"
start_nbdkit readonly -r --filter=blocksize --filter=log --filter=pcache \
             --filter=retry --filter=cow "${parameters[@]}" \
             minblock=512 logfile=log.out retry-delay=1
exercise readonly requests=20 readonly
stop readonly
same disk.img before.img
