# The probe guest: does what an ordinary kernel does in its first milliseconds, and says
# so on the serial port. QEMU's firmware has brought it from real to protected mode; it goes
# on to long mode with paging, takes an exception, a page fault and a timer interrupt, goes to
# user mode and back, touches memory-mapped registers, and uses SSE. A /dev/kvm that
# only pretends fails at one of these ("KVM internal error. Suberror: 1") or hangs.
#
# Built by:  as --64 probe.S -o probe.o && ld -n --no-warn-rwx-segments -T probe.ld -o probe.elf probe.o && strip probe.elf

	.set COM1, 0x3f8
	.set EXIT, 0xf4			# isa-debug-exit
	.set APIC, 0xfee00000
	.set HOLE, 0x40000000		# mapped by the page-fault handler
	.set GOOD, 0

# PVH: where to begin in 32-bit protected mode without paging (include/xen/interface/elfnote.h, 18)
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long _start

	.text
	.code32
	.globl _start
_start:	cli
	cld
	mov	$stack, %esp
	lgdt	gdtr

	# page tables: the first GiB by 2 MiB pages, the GiB with the APIC too, a hole between
	mov	$pdlow, %edi
	mov	$0x87, %eax
	mov	$512, %ecx
1:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b
	mov	$pdhigh, %edi
	mov	$0xc0000093, %eax	# uncached
	mov	$512, %ecx
2:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	2b
	movl	$pdpt + 7, pml4
	movl	$pdlow + 7, pdpt
	movl	$pdhole + 3, pdpt + 8
	movl	$pdhigh + 3, pdpt + 24

	mov	$0x80000001, %eax
	cpuid
	bt	$29, %edx		# long mode
	jnc	fail32
	mov	%cr4, %eax
	or	$0x620, %eax		# PAE, OSFXSR, OSXMMEXCPT
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	# EFER: long mode, syscall
	rdmsr
	or	$0x101, %eax
	wrmsr
	mov	%cr0, %eax
	and	$~4, %eax		# no FPU emulation
	or	$0x80010003, %eax	# paging, write protection, monitor coprocessor
	mov	%eax, %cr0
	ljmp	$0x08, $long
fail32:	mov	$1, %al
	out	%al, $EXIT
	hlt

	.code64
long:	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$stack, %rsp

	# interrupt gates for #UD, #PF and vector 32
	mov	$6, %edi
	mov	$on_ud, %eax
	call	gate
	mov	$14, %edi
	mov	$on_pf, %eax
	call	gate
	mov	$32, %edi
	mov	$on_timer, %eax
	call	gate
	lidt	idtr

	ud2				# the handler steps over it
	cmpl	$1, uds
	jne	fail

	mov	$HOLE, %rbx		# the handler maps it, the access is done again
	movl	$0x12345678, (%rbx)
	cmpl	$0x12345678, (%rbx)
	jne	fail
	cmpl	$1, pfs
	jne	fail

	movups	ones(%rip), %xmm0	# 1+1 four times
	addps	%xmm0, %xmm0
	cvttps2dq %xmm0, %xmm1
	movd	%xmm1, %eax
	cmp	$2, %eax
	jne	fail

	# the local APIC's timer, by memory-mapped registers
	mov	$APIC, %rbx
	movl	$0x1ff, 0xf0(%rbx)	# on, spurious vector 255
	movl	$0xb, 0x3e0(%rbx)	# divide by 1
	movl	$32, 0x320(%rbx)	# one shot, vector 32
	movl	$100000, 0x380(%rbx)
3:	sti
	hlt
	cli
	cmpl	$0, ticks
	je	3b

	# user mode by sysret and back by syscall
	mov	$0xc0000081, %ecx	# STAR: kernel 0x08, user 0x18 (+8 data, +16 code)
	xor	%eax, %eax
	mov	$0x00180008, %edx
	wrmsr
	mov	$0xc0000082, %ecx	# LSTAR
	mov	$on_syscall, %eax
	xor	%edx, %edx
	wrmsr
	mov	$0xc0000084, %ecx	# SFMASK
	mov	$0x200, %eax
	xor	%edx, %edx
	wrmsr
	mov	$user, %ecx
	mov	$2, %r11d
	sysretq
user:	mov	$0xb4, %edi		# ring 3
	mov	%cs, %eax
	and	$3, %eax
	syscall
	ud2
on_syscall:
	cmp	$3, %eax		# it was ring 3
	jne	fail
	cmp	$0xb4, %edi
	jne	fail

	mov	$words, %esi
	mov	$words_end - words, %ecx
	mov	$COM1, %edx
	rep outsb
	mov	$GOOD, %al
	out	%al, $EXIT
4:	hlt
	jmp	4b
fail:	mov	$1, %al
	out	%al, $EXIT
	jmp	4b

gate:	shl	$4, %edi		# %edi: vector, %eax: handler
	add	$idt, %edi
	mov	%ax, (%rdi)
	movw	$0x08, 2(%rdi)
	movw	$0x8e00, 4(%rdi)
	shr	$16, %eax
	mov	%ax, 6(%rdi)
	ret

on_ud:	incl	uds
	addq	$2, (%rsp)
	iretq
on_pf:	incl	pfs
	mov	%cr2, %rax
	cmp	$HOLE, %rax
	jne	fail
	movl	$scratch + 0x3, pt
	movl	$pt + 3, pdhole
	add	$8, %rsp		# the error code
	iretq
on_timer:
	incl	ticks
	mov	$APIC, %rax
	movl	$0, 0xb0(%rax)		# end of interrupt
	iretq

	.balign 16
ones:	.float 1, 1, 1, 1
gdt:	.quad 0
	.quad 0x00af9b000000ffff	# 08: kernel code, 64 bits
	.quad 0x00cf93000000ffff	# 10: kernel data
	.quad 0				# 18
	.quad 0x00cff3000000ffff	# 20: user data
	.quad 0x00affb000000ffff	# 28: user code, 64 bits
gdtr:	.word . - gdt - 1
	.long gdt
	.balign 8
idtr:	.word 33 * 16 - 1
	.quad idt
words:	.ascii "banger: an ordinary guest ran to its end\n"
words_end:

	.bss
	.balign 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pdlow:	.skip 4096
pdhigh:	.skip 4096
pdhole:	.skip 4096
pt:	.skip 4096
scratch: .skip 4096
idt:	.skip 33 * 16
uds:	.skip 4
pfs:	.skip 4
ticks:	.skip 4
	.skip 4096
	.balign 16
stack:
