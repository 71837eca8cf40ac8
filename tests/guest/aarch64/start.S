/*
 * Entry of the bare-metal guest as an arm64 Image (Linux, Documentation/arch/arm64/booting.rst): from EL1 with the MMU off and the
 * device tree's address in x0 to guest_main() in an identity map, on a stack.
 *
 * The map has 39 bits in blocks of 1 GiB (Arm ARM D8.3, 4 KiB granule, one table of level 1): the one at 1 GiB, where RAM begins, is
 * normal and cacheable, as atomics want it; all others are normal and not cacheable, because the tests access registers at
 * odd addresses too, at which device memory would fault before the monitor saw anything. The accessors of cpu.h keep the
 * order.
 *
 * An exception goes to guest_exception() on a stack of its own, with the vector, ESR, ELR and FAR. A second vCPU comes in at
 * second_start (PSCI CPU_ON, cpu.c).
 */
#define MAIR 0x44ff		/* 0: write-back; 1: not cacheable */
#define TCR 0x200803519		/* T0SZ 25, inner shareable, write-back walks, no TTBR1, 40 bits of addresses */
#define SCTLR_ON 0x1005		/* M, C, I; neither alignment nor stack checks */
#define CPACR_FP 0x300000
#define BLOCK_CACHED 0x701	/* access flag, inner shareable, attributes 0 */
#define BLOCK_UNCACHED 0x60000000000705	/* attributes 1, not executable */
#define GIB_SHIFT 30

	.section .head, "ax", @progbits
	.globl head
head:
	b start
	.long 0
	.quad TEXT_OFFSET
	.quad image_size
	.quad 2				/* little-endian, pages of 4 KiB */
	.quad 0, 0, 0
	.ascii "ARM\x64"
	.long 0

	.text
	.macro address reg, symbol
	adrp \reg, \symbol
	add \reg, \reg, :lo12:\symbol
	.endm

start:
	mov x19, x0
	address x1, bss_begin
	address x2, bss_end
1:	str xzr, [x1], #8
	cmp x1, x2
	b.lo 1b
	address x1, table
	ldr x3, =BLOCK_UNCACHED
	mov x2, #0
2:	lsl x4, x2, #GIB_SHIFT
	orr x4, x4, x3
	str x4, [x1, x2, lsl #3]
	add x2, x2, #1
	cmp x2, #512
	b.lo 2b
	mov x4, #1 << GIB_SHIFT
	mov x3, #BLOCK_CACHED
	orr x4, x4, x3
	str x4, [x1, #8]
	bl mmu_on
	address x0, stack_end
	mov sp, x0
	mov x0, x19
	mov x29, xzr
	bl guest_main
3:	wfi
	b 3b

	.globl second_start
second_start:
	bl mmu_on
	address x0, second_stack_end
	mov sp, x0
	mov x29, xzr
	bl guest_ap
4:	wfi
	b 4b

mmu_on:
	ldr x0, =CPACR_FP
	msr cpacr_el1, x0
	address x0, vectors
	msr vbar_el1, x0
	ldr x0, =MAIR
	msr mair_el1, x0
	ldr x0, =TCR
	msr tcr_el1, x0
	address x0, table
	msr ttbr0_el1, x0
	dsb sy
	tlbi vmalle1
	ic iallu
	dsb sy
	isb
	ldr x0, =SCTLR_ON
	msr sctlr_el1, x0
	isb
	ret

	.balign 2048
vectors:
	.set vector, 0
	.rept 16
	.balign 128
	mov x0, #vector
	b exception
	.set vector, vector + 1
	.endr
	.balign 128
exception:
	mrs x1, esr_el1
	mrs x2, elr_el1
	mrs x3, far_el1
	address x4, exception_stack_end
	mov sp, x4
	b guest_exception

	.ltorg

	/* Not in .bss: it is written before, and read by the second vCPU. */
	.section .tables, "aw", @progbits
	.balign 4096
table:
	.fill 512, 8, 0

	.section .bss.stacks, "aw", @nobits
	.balign 16
	.fill 65536, 1, 0
stack_end:
	.fill 16384, 1, 0
exception_stack_end:
	.fill 16384, 1, 0
second_stack_end:

	.section .note.GNU-stack, "", @progbits
