/* Changes the labels of running processes. */
#pragma once

#include "labels.h"

struct relabel {
	__u64 expected; /* zero: none */
	__u64 label;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct relabel);
} relabels SEC(".maps");

static __always_inline int is_expected(struct label label, __u64 expected)
{
	return expected ? to_word(label) == expected : !label.class;
}

/* Changes the labels of the processes that `relabels` names, and writes down which. */
SEC("iter/task")
int relabel(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct label before = {}, label;
	struct label *stored;
	struct relabel *wanted;
	__u32 process;

	if (!task)
		return 0;
	process = task->tgid;
	wanted = bpf_map_lookup_elem(&relabels, &process);
	if (!wanted)
		return 0;
	stored = stored_label(task);
	if (stored)
		before = resolve(stored);
	label = to_label(wanted->label);
	/* The label of a process is its leader's; the others follow it, before or after. */
	if (!is_expected(before, wanted->expected) && to_word(before) != wanted->label)
		return 0;
	if (put_label(task, &label))
		return 0;
	bpf_seq_write(ctx->meta->seq, &process, sizeof(process));
	return 0;
}
