# SPDX-License-Identifier: BSD-3-Clause

# A whole guest in a boot sector, for test-client-guest.sh.  It knows how often
# it was booted (sector 1), checks that 128 pieces of 32 KiB have what the boot
# before wrote there, writes them anew, reads them again, and says on the serial
# port how it goes.

        .code16
        .globl _start

        .set pieces, 128
        .set buffer, 0x1000             # segment
        .set count, 0x8000              # where sector 1 is read to

_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     %dl, drive
        mov     $'(', %al
        call    say

        call    sector_1
        mov     $0x42, %ah
        call    disk

        xor     %si, %si                # pass 1: check, write
1:      call    piece
        mov     count, %bx
        dec     %bx
        js      2f                      # never booted before
        call    check
2:      mov     count, %bx
        call    value
        rep stosw
        mov     $0x43, %ah
        call    disk
        call    dot
        inc     %si
        cmp     $pieces, %si
        jb      1b

        xor     %si, %si                # pass 2: check
3:      call    piece
        mov     count, %bx
        call    check
        call    dot
        inc     %si
        cmp     $pieces, %si
        jb      3b

        incw    count
        call    sector_1
        mov     $0x43, %ah
        call    disk
        mov     $')', %al
        call    say
        mov     $0x10, %al              # exit code 33
        out     %al, $0xf4
        jmp     hang

wrong:  mov     $'!', %al
        jmp     fail
bad_io: mov     $'?', %al
fail:   call    say
        mov     $0x20, %al              # exit code 65
        out     %al, $0xf4
hang:   hlt
        jmp     hang

# Piece si has the value that boot bx writes.
check:  mov     $0x42, %ah
        call    disk
        call    value
        repe scasw
        jne     wrong
        ret

# ax: what every word of piece si is after boot bx; es:di and cx: where.
value:  mov     $buffer, %ax
        mov     %ax, %es
        xor     %di, %di
        mov     $16384, %cx
        mov     %si, %ax
        shl     $4, %ax
        add     %bx, %ax
        inc     %ax
        ret

# The packet for piece si, and for sector 1.
piece:  movw    $64, sectors
        movw    $0, offset
        movw    $buffer, segment
        mov     %si, %ax
        shl     $6, %ax
        add     $2048, %ax
        mov     %ax, lba
        ret
sector_1:
        movw    $1, sectors
        movw    $count, offset
        movw    $0, segment
        movw    $1, lba
        ret

# Read (ah = 0x42) or write (0x43).
disk:   push    %si
        xor     %al, %al
        mov     drive, %dl
        mov     $packet, %si
        int     $0x13
        pop     %si
        jc      bad_io
        ret

dot:    test    $15, %si
        jnz     4f
        mov     $'.', %al
say:    mov     $0x3f8, %dx
        out     %al, %dx
4:      ret

drive:  .byte   0
        .balign 4
packet: .byte   16, 0
sectors: .word  0
offset: .word   0
segment: .word  0
lba:    .word   0, 0, 0, 0

        .org    510
        .word   0xaa55
