#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# Filters that find a disk in something else: encrypted, compressed, in a
# partition, an archive, a file system.  To the left of the cache the whole
# thing is cached, to its right only the disk in it.  Both are right, and differ
# in what lies on the cache device.

. "$(dirname "$0")/functions.sh"
need nbdcopy qemu-img cryptsetup mke2fs e2fsck tar gzip xz
need_plugin partitioning
use_seed
use_cache pmem

random_file content.img $((2 * MiB + 512))

say "luks"
secret=secret,id=key,data=passphrase
truncate -s 6M luks.img
# qemu-img would spend seconds on making the key hard to guess.
printf passphrase | cryptsetup -q luksFormat --type luks1 \
                               --pbkdf-force-iterations 1000 luks.img -
source=luks.img
for stack in "luks pcache" "pcache luks"; do
  life "$stack" aligned=512 file disk.img passphrase=passphrase
  # Another reader.
  qemu-img convert --object $secret -O raw --image-opts \
           driver=luks,key-secret=key,file.filename=disk.img qemu.img
  same qemu.img model.img "$stack: read by qemu"
done

# written LEFT RIGHT: one of them luks; a text that no cipher leaves as it is.
written ()
{
  rm -f "$cache"
  start_nbdkit text --filter="$1" --filter="$2" file disk.img \
     passphrase=passphrase pmem="$cache" pmem-size=10M pcache-segment-size=1M
  nbdsh -u "$(uri text)" \
        -c 'h.pwrite (b"A plain text, to be found. " * 512, 512 * 10)' \
        -c 'h.flush ()'
  kill_hard text
}
written luks pcache
! grep -qa "A plain text, to be found" "$cache" ||
  fail "luks above: the cache holds plain text"
written pcache luks
grep -qa "A plain text, to be found" "$cache" ||
  fail "luks below: the cache does not hold plain text"
start_nbdkit text --filter=pcache --filter=luks file disk.img \
     passphrase=passphrase pmem="$cache"
nbdsh -u "$(uri text)" -c 'assert h.pread (7, 512 * 10) == b"A plain"'
stop text
! grep -qa "A plain text, to be found" disk.img ||
  fail "luks below: the disk holds plain text"

say "gzip, xz: read only"
gzip -k content.img
xz -0 -k --block-size=1M content.img
for filter in gzip xz; do
  case $filter in gzip) source=content.img.gz ;; xz) source=content.img.xz ;; esac
  for stack in "$filter pcache" "pcache $filter"; do
    life "$stack" readonly file disk.img
    same model.img content.img "$stack"
    same disk.img "$source" "$stack"
  done
done

say "tar"
mkdir in
cp content.img in/disk
say "another file" > in/before
tar -cf tar.img in/before in/disk in/before
XZ_OPT=-0 tar -cJf tar.img.xz in/before in/disk
source=tar.img
for stack in "tar pcache" "pcache tar"; do
  life "$stack" "" file disk.img tar-entry=in/disk
  tar -xOf disk.img in/disk > out.img
  same out.img model.img "$stack: read by tar"
  [ "$(tar -xOf disk.img in/before | sort -u)" = "another file" ] ||
    fail "$stack: another file was changed"
done
source=tar.img.xz
life "tar pcache xz" readonly file disk.img tar-entry=in/disk
same model.img content.img

say "partition"
truncate -s 1M other.img
content gpt.img partitioning other.img content.img other.img partition-type=gpt
source=gpt.img
for stack in "partition pcache" "pcache partition"; do
  life "$stack" "" file disk.img partition=2
done

if ! "$NBDKIT" --filter=ext2 null --version > /dev/null 2>&1; then
  say "nbdkit has no filter ext2 here"
  exit
fi
say "ext2"
mke2fs -q -F -t ext4 -d in ext2.img 8M > mke2fs.log 2>&1
source=ext2.img
# What it says of holes is the image's, not the file's; so noextents.  One
# connection at a time.
for stack in "noextents ext2 pcache" "pcache noextents ext2"; do
  life "$stack" one file disk.img ext2file=/disk
  e2fsck -fn disk.img > e2fsck.log 2>&1 || { cat e2fsck.log; fail "$stack"; }
done
