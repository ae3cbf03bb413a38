/* The few kernel types that the programs read; CO-RE moves the fields to where this kernel has them. */
#pragma once

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	struct task_struct *group_leader;
};

struct bpf_sock_addr_kern {
	void *uaddr;
};

#pragma clang attribute pop
