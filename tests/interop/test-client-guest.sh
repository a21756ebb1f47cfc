#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause

# A guest of qemu boots from the cached disk, by virtio, SCSI, NVMe and AHCI,
# and finds what it wrote the last time; nbdkit is killed and started again
# while it runs, which it does not notice.  The guest is boot.s and SeaBIOS: no
# kernel is needed.

. "$(dirname "$0")/functions.sh"
need qemu-system-x86_64 as ld

as --32 -o boot.o "$(dirname "$this_test")/boot.s"
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o boot.img boot.o
truncate -s 6M disk.img
dd if=boot.img of=disk.img conv=notrunc status=none
parameters=(file disk.img pmem=cache.img pmem-size=6M pcache-segment-size=1M
            pcache-writeback-delay=100ms)

# guest DEVICE...: as a job; $qemu.
guest ()
{
  rm -f serial.log
  timeout -k 5 $((100 * slow)) \
    qemu-system-x86_64 -machine pc,accel=tcg -m 32 -nodefaults -no-user-config \
    -display none -serial file:serial.log -device isa-debug-exit,iobase=0xf4 \
    -drive id=disk,if=none,format=raw,cache=writethrough,file.driver=nbd,file.server.type=unix,file.server.path="$dir/cache.sock",file.reconnect-delay=60 \
    "$@" > qemu.log 2>&1 < /dev/null &
  qemu=$!
  helpers+=($qemu)
}
wrote_some () { [ -e serial.log ] && has_text serial.log '(\.\.' || is_gone $qemu; }

boots=0
for device in virtio-blk-pci scsi-hd nvme ahci; do
  start cache "${parameters[@]}"
  case $device in
    scsi-hd) guest -device virtio-scsi-pci -device scsi-hd,drive=disk ;;
    nvme) guest -device nvme,drive=disk,serial=1 ;;
    ahci) guest -device ahci,id=ahci -device ide-hd,drive=disk,bus=ahci.0 ;;
    *) guest -device $device,drive=disk ;;
  esac
  until_true 60 wrote_some
  kill_hard cache
  start cache "${parameters[@]}"
  code=0
  wait $qemu || code=$?
  say "$device: $(cat serial.log)"
  [ $code -eq 33 ] || fail "exit code $code: $(cat qemu.log)"
  boots=$((boots + 1))
  kill_hard cache
done
start cache "${parameters[@]}"
"$PYTHON3" -c '
import sys
boots = int (sys.argv[1])
with open ("disk.img", "rb") as f:
    disk = bytearray (f.read ())
disk[:512] = open ("boot.img", "rb").read ()
disk[512:514] = boots.to_bytes (2, "little")
for i in range (128):
    at = (2048 + i * 64) * 512
    disk[at:at + 32768] = (i * 16 + boots).to_bytes (2, "little") * 16384
open ("expected.img", "wb").write (disk)
' $boots
serves cache expected.img
stop cache
same disk.img expected.img
say_kills "$boots boots"
