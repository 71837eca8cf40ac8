/*
 * Entry of the bare-metal guest: from the PVH entry point (32-bit protected mode, paging off, ebx = start info; Xen's
 * docs/misc/pvh.pandoc) to guest_main() at CPL 3 in long mode, in a few dozen instructions.
 *
 * Why CPL 3: KVM without hardware virtualisation runs it natively and interprets CPL 0 at a thousandth of the speed.
 * IOPL 3 and a TSS with all ports permitted (some engines do not keep IOPL at CPL 3) give ring 3 the ports, and the page tables, which the assembler wrote, give it all of [0, 8 GiB).
 *
 * An exception at CPL 3 comes back to CPL 3 in guest_exception() on a stack of its own. An undefined instruction with
 * one of two numbers in eax asks for what only ring 0 can do: halt for ever with interrupts off, or a triple fault. (Software
 * interrupts would be nicer; not every engine has them.)
 *
 * link.ld puts .low at LOW, so that addresses of things in it are known here, as descriptors cut them to pieces.
 */
#define LOW 0x100000
#define KERNEL_CODE32 0x08
#define KERNEL_CODE 0x10
#define KERNEL_DATA 0x18
#define USER_DATA (0x20 | 3)
#define USER_CODE (0x28 | 3)
#define TASK 0x30

#define CR0 0x80000033		/* PG NE ET MP PE: no EM, no TS, so SSE works */
#define CR4 0x620		/* PAE OSFXSR OSXMMEXCPT */
#define EFER 0xc0000080
#define EFER_LME 0x100
#define RFLAGS 0x3002		/* IOPL 3, interrupts off */
#define TABLE 0x7		/* present, writable, user */
#define PAGE_2M 0x87
#define GIGABYTES 8
#define ASK_HALT 0x68616c74
#define ASK_TRIPLE 0x74726970
#define UNDEFINED 6
#define TSS_SIZE (104 + 8192 + 1)

	/* Xen public/elfnote.h */
	.section .note.pvh, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start

	.section .low, "awx", @progbits
	.globl low
low:
	.code32
	.globl start
start:
	cli
	cld
	lgdt gdt_register
	mov $CR4, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov $CR0, %eax
	mov %eax, %cr0
	ljmp $KERNEL_CODE, $long_mode

	.code64
long_mode:
	mov $KERNEL_DATA, %eax
	mov %eax, %ss
	lidt idt_register
	mov $TASK, %eax
	ltr %ax
	mov $USER_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov $ring0_stack_end, %rsp
	mov %ebx, %ebx		/* the upper half is undefined after 32-bit mode */
	pushq $USER_DATA
	pushq $stack_end
	pushq $RFLAGS
	pushq $USER_CODE
	pushq $ring3
	iretq

ring3:
	mov %rbx, %rdi
	xor %ebp, %ebp
	call guest_main
1:	pause
	jmp 1b

	/*
	 * Another vCPU, started by smp.c: a startup IPI begins in real mode at the page to which ap_begin to ap_end were
	 * copied (Intel SDM vol. 3 §9.4.4). It has no TSS: it touches no port and takes no exception.
	 */
	.globl ap_begin
	.globl ap_end
	.code16
ap_begin:
	cli
	lgdtl %cs:(ap_gdt - ap_begin)
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $KERNEL_CODE32, $ap_protected
	.balign 8
ap_gdt:
	.word gdt_register - gdt - 1
	.long gdt
ap_end:

	.code32
ap_protected:
	mov $CR4, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov $CR0, %eax
	mov %eax, %cr0
	ljmp $KERNEL_CODE, $ap_long_mode

	.code64
ap_long_mode:
	mov $KERNEL_DATA, %eax
	mov %eax, %ss
	lidt idt_register
	mov $USER_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov $ap_ring0_stack_end, %rsp
	pushq $USER_DATA
	pushq $ap_stack_end
	pushq $RFLAGS
	pushq $USER_CODE
	pushq $ap_ring3
	iretq

ap_ring3:
	xor %ebp, %ebp
	call guest_ap
1:	pause
	jmp 1b

	/* One entry of 16 bytes for each vector; those without an error code push a zero in its place. */
	.balign 16
vectors:
	.set vector, 0
	.rept 32
	.balign 16
	.if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)
	pushq $0
	.endif
	pushq $vector
	jmp exception
	.set vector, vector + 1
	.endr

	/* vector, error code, rip, cs, rflags, rsp, ss */
exception:
	pop %rdi
	cmp $UNDEFINED, %edi
	jne reflect
	cmp $ASK_HALT, %eax
	je halt
	cmp $ASK_TRIPLE, %eax
	je triple_fault
reflect:
	pop %rsi
	mov (%rsp), %rdx
	mov %cr2, %rcx
	movq $guest_exception, (%rsp)
	movq $exception_stack_end, 24(%rsp)
	iretq

halt:
	hlt
	jmp halt

	/* Back to the undefined instruction, which finds no handler any more, nor one for that. */
triple_fault:
	lidt idt_none
	add $8, %rsp
	iretq

	.balign 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 32-bit code */
	.quad 0x00af9b000000ffff	/* 64-bit code */
	.quad 0x00cf93000000ffff	/* data */
	.quad 0x00cff3000000ffff	/* data, DPL 3 */
	.quad 0x00affb000000ffff	/* 64-bit code, DPL 3 */
	.word TSS_SIZE - 1, tss - low, LOW >> 16 | 0x8900, 0	/* 64-bit TSS, base below 16 MiB */
	.quad 0
gdt_register:
	.word gdt_register - gdt - 1
	.long gdt

	.balign 16
idt:
	.set vector, 0
	.rept 32
	.word (vectors - low) + 16 * vector, KERNEL_CODE, 0x8e00, LOW >> 16
	.quad 0
	.set vector, vector + 1
	.endr
idt_register:
	.word idt_register - idt - 1
	.quad idt
idt_none:
	.word 0
	.quad 0

	.balign 8
tss:
	.long 0
	.quad ring0_stack_end
	.fill 90, 1, 0
	.word 104
	.fill 8192, 1, 0
	.byte 0xff

	/* Identity map in pages of 2 MiB, user accessible. */
	.section .tables, "aw", @progbits
	.balign 4096
pml4:
	.quad pdpt + TABLE
	.fill 511, 8, 0
pdpt:
	.set i, 0
	.rept GIGABYTES
	.quad directories + 4096 * i + TABLE
	.set i, i + 1
	.endr
	.fill 512 - GIGABYTES, 8, 0
directories:
	.set i, 0
	.rept 512 * GIGABYTES
	.quad (i << 21) + PAGE_2M
	.set i, i + 1
	.endr

	.section .bss.stacks, "aw", @nobits
	.balign 16
	.fill 65536, 1, 0
stack_end:
	.fill 16384, 1, 0
exception_stack_end_aligned:
	.set exception_stack_end, exception_stack_end_aligned - 8	/* as after a call */
	.fill 4096, 1, 0
ring0_stack_end:
	.fill 16384, 1, 0
ap_stack_end:
	.fill 4096, 1, 0
ap_ring0_stack_end:

	.section .note.GNU-stack, "", @progbits
