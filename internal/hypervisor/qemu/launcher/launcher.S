/*
 * launcher lets its successor be looked into, and becomes it: prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY), then
 * execve(argv[1], argv + 1, envp). It is started instead of QEMU by a daemon without root where the Yama security module lets
 * processes read the memory of their own children only (kernel.yama.ptrace_scope = 1): a daemon that was started
 * again has no children. The kernel's own rules stay: same user, no more rights (ptrace(2)).
 *
 * Built by hand:  as -o launcher.o launcher.S && ld -s -z noseparate-code -z noexecstack -o launcher.elf launcher.o
 */
	.globl _start
	.text
_start:
	movl	$157, %eax		/* prctl */
	movl	$0x59616d61, %edi	/* PR_SET_PTRACER */
	movq	$-1, %rsi		/* PR_SET_PTRACER_ANY */
	syscall				/* a kernel without Yama refuses, and need not be asked */

	movq	(%rsp), %rax		/* argc */
	movq	16(%rsp), %rdi		/* argv[1] */
	leaq	16(%rsp), %rsi		/* argv + 1 */
	leaq	16(%rsp,%rax,8), %rdx	/* envp, after argv's NULL */
	movl	$59, %eax		/* execve */
	syscall

	movl	$2, %edi
	leaq	words(%rip), %rsi
	movl	$words_end - words, %edx
	movl	$1, %eax		/* write */
	syscall
	movl	$127, %edi
	movl	$60, %eax		/* exit */
	syscall

words:	.ascii	"the launcher cannot execute QEMU\n"
words_end:
