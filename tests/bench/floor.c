/*
 * The floor: the least that any monitor does on this host for 1 vCPU and 128 MiB up to the first KVM_RUN, by bare ioctls, on one
 * thread. What it takes is the kernel's time; what a monitor takes beyond it is its own.
 *
 * usage: floor IMAGE     IMAGE is the guest as flat bytes for 1 MiB. Status 0 if the guest's first exit is its port write.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM = 128 << 20, ENTRY = 1 << 20, CPUID_MAX = 256, COM1 = 0x3f8 };

static int must(int r, const char *what)
{
	if (r < 0) {
		perror(what);
		_exit(1);
	}
	return r;
}

static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 room[CPUID_MAX]; } cpuid;

int main(int argc, char **argv)
{
	struct kvm_segment flat = { .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_regs regs = { .rip = ENTRY, .rflags = 2 };
	uint64_t identity = 0xfffbc000;
	struct kvm_sregs sregs;
	int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int image = must(open(argc > 1 ? argv[1] : "", O_RDONLY | O_CLOEXEC), "image");
	int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM"), vcpu;
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = RAM, .userspace_addr = (uintptr_t)ram };
	struct kvm_run *run;

	must(ram == MAP_FAILED ? -1 : 0, "mmap");
	/* Memory first: behind an interrupt chip KVM would wait for a grace period here. */
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	must(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), "KVM_SET_IDENTITY_MAP_ADDR");
	must(ioctl(vm, KVM_SET_TSS_ADDR, identity + 0x1000), "KVM_SET_TSS_ADDR");
	must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	must(ioctl(vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
	must((int)pread(image, ram + ENTRY, RAM - ENTRY, 0), "image");
	vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	must(run == MAP_FAILED ? -1 : 0, "mmap of the vCPU");
	cpuid.head.nent = CPUID_MAX;
	must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	must(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
	must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.cs = flat;
	sregs.cs.selector = 0x8;
	sregs.cs.type = 0xb;
	sregs.cr0 |= 1;
	must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	return run->exit_reason == KVM_EXIT_IO && run->io.port == COM1 ? 0 : 1;
}
