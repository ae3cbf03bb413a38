/* Labels of tasks: read, settled, inherited, listed. */
#pragma once

#include "maps.h"

static __always_inline __u64 to_word(struct label label)
{
	union {
		struct label label;
		__u64 word;
	} both = { .label = label };

	return both.word;
}

static __always_inline struct label to_label(__u64 word)
{
	union {
		__u64 word;
		struct label label;
	} both = { .word = word };

	return both.label;
}

/* Where the label of a task's process is kept. A thread that execs becomes the leader itself, which
 * is why every thread carries the label. */
static __always_inline struct label *stored_label(struct task_struct *task)
{
	struct label *label = bpf_task_storage_get(&labels, task->group_leader, 0, 0);
	__u32 process;

	if (label || !strays_seen)
		return label;
	process = task->tgid;
	return bpf_map_lookup_elem(&strays, &process);
}

/* Reads a label and puts the verdict into it where that came meanwhile. */
static __always_inline struct label resolve(struct label *stored)
{
	struct label label = to_label(*(volatile __u64 *)stored);
	struct label decided = label;
	__u32 *class;

	if (label.class != UNDECIDED)
		return label;
	class = bpf_map_lookup_elem(&settled, &label.exec);
	if (!class)
		return label;
	decided.class = *class;
	decided.from = 0;
	/* Unless another exec was quicker. */
	__sync_val_compare_and_swap((__u64 *)stored, to_word(label), to_word(decided));
	return decided;
}

static __always_inline struct label current_label(void)
{
	struct label *stored = stored_label(bpf_get_current_task_btf());
	struct label none = {};

	return stored ? resolve(stored) : none;
}

/* Whether the flows of the running process are captured. `class` may be null then: what cannot be
 * looked up is refused. */
static __always_inline int is_captured(struct label *label, struct class **class)
{
	__u32 number;

	*label = current_label();
	number = label->class;
	if (!number)
		return 0;
	*class = bpf_map_lookup_elem(&classes, &number);
	if (*class && (*class)->flags & CLASS_TRACKED)
		return 0;
	if (*class && !(*class)->mark)
		*class = 0;
	return 1;
}

static __always_inline int put_label(struct task_struct *task, struct label *label)
{
	struct label *stored =
		bpf_task_storage_get(&labels, task, label, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u32 process = task->tgid;

	if (stored) {
		*(volatile __u64 *)stored = to_word(*label);
		return 0;
	}
	strays_seen = 1;
	count(COUNT_STRAY);
	return bpf_map_update_elem(&strays, &process, label, BPF_ANY);
}

/* Linux 6.13. */
extern int bpf_send_signal_task(struct task_struct *task, int signal, int type, __u64 value) __ksym
	__weak;

/* For a child that cannot be given its label: rather gone than past the proxy. */
static __always_inline void end_child(struct task_struct *task)
{
	if (bpf_ksym_exists(bpf_send_signal_task))
		bpf_send_signal_task(task, SIGKILL, PIDTYPE_TGID, 0);
	else
		bpf_send_signal(SIGKILL);
}

SEC("tp_btf/task_newtask")
int BPF_PROG(inherit, struct task_struct *task)
{
	struct label *stored = stored_label(bpf_get_current_task_btf());
	struct label label, later;

	if (!stored)
		return 0;
	label = resolve(stored);
	if (put_label(task, &label) && label.class)
		end_child(task);
	/* A relabelling may be at work: it has met the parent and not yet the child. */
	later = resolve(stored);
	if (to_word(later) != to_word(label) && put_label(task, &later) && later.class)
		end_child(task);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(leave, struct task_struct *task)
{
	struct label *label = bpf_task_storage_get(&labels, task, 0, 0);
	__u32 process = task->tgid;
	struct event *event;
	__u32 zero = 0;
	__u32 *told;

	/* With the last thread, which need not be the leader. */
	if (task->signal->live.counter != 0)
		return 0;
	if (strays_seen)
		bpf_map_delete_elem(&strays, &process);
	if (!label || !label->class)
		return 0;
	told = bpf_map_lookup_elem(&ended, &zero);
	if (!told || __sync_val_compare_and_swap(told, 0, 1))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		*told = 0;
		return 0;
	}
	event->kind = EVENT_ENDED;
	event->process = process;
	event->cookie = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Writes a row for each task of a labelled process that is not about to end. */
SEC("iter/task")
int list_labelled(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct label *stored;
	struct row row = {};

	if (!task || task->flags & PF_EXITING)
		return 0;
	stored = stored_label(task);
	if (!stored)
		return 0;
	row.label = resolve(stored);
	if (!row.label.class)
		return 0;
	row.process = task->tgid;
	row.uid = task->cred->uid.val;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}
