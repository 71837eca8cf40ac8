/*
 * The first program of a guest whose exits are counted: says one byte on the console, then spins, so that from there on the
 * machine makes no exit to user space that a count could catch.
 */
#include <sys/syscall.h>

	.section .text
	.globl	_start
#if defined(__x86_64__)
_start:
	movl	$SYS_write, %eax
	movl	$1, %edi
	leaq	byte(%rip), %rsi
	movl	$1, %edx
	syscall
1:	pause
	jmp	1b
#else
_start:
	mov	x8, #SYS_write
	mov	x0, #1
	adr	x1, byte
	mov	x2, #1
	svc	#0
1:	yield
	b	1b
#endif
byte:
	.ascii	"U"

	.section .note.GNU-stack, "", %progbits
