/*
 * The smallest guest: says one byte on the first serial port and halts for ever. A PVH ELF (Xen ELF note 18), entered in
 * 32-bit protected mode with interrupts off, so that every monitor starts it in the same way.
 */
	.section .text
	.code32
	.globl	start
start:
	movw	$0x3f8, %dx
	movb	$'B', %al
	outb	%al, %dx
halt:
	hlt
	jmp	halt

	.section .note.pvh, "a", @note
	.long	4, 4, 18
	.asciz	"Xen"
	.long	start

	.section .note.GNU-stack, "", @progbits
