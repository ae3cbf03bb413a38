/*
 * Sockets that were open before a rule began, changed or ended: which are to change hands.
 *
 * User space runs this and then mend.h to the end; see sweep.rs.
 */
#pragma once

#include "ends.h"


enum pass { PASS_CLAIM, PASS_RELEASE, PASS_DOOM, PASS_REPORT };

struct sweep {
	__u32 number;
	__u32 pass;
	__u64 claimed;
	__u64 released;
	__u64 ended;
};

/* A socket whose mark user space sets. */
struct remark {
	__u64 cookie;
	__u32 process;
	__u32 descriptor;
	__u32 mark;
	__u32 ended; /* its flows have been ended, and it does not know yet */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sweep);
} sweeps SEC(".maps");

/* The owners of MPTCP sockets by address: their flows are sockets of the kernel's own, which know
 * nothing but the address. Empty but during a sweep. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct owner);
} wholes SEC(".maps");

static __always_inline struct sweep *get_sweep(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sweeps, &zero);
}

static __always_inline int is_held(struct owner *owner, struct sweep *sweep)
{
	return owner->flags >> HELD_SHIFT == (sweep->number & 0xffffff);
}

static __always_inline void flag(struct owner *owner, __u32 flags, struct sweep *sweep)
{
	owner->flags = (owner->flags & OWNER_FLAGS) | flags | sweep->number << HELD_SHIFT;
}

static __always_inline void note_whole(struct sock *sk, struct owner *owner)
{
	__u64 address = (__u64)sk;

	if (sk->sk_protocol == IPPROTO_MPTCP)
		bpf_map_update_elem(&wholes, &address, owner, BPF_ANY);
}

static __always_inline void take(struct task_struct *task, struct sock *sk, struct label label,
				 struct class *class, struct owner *owner, struct sweep *sweep)
{
	owner->instance = class ? class->instance : 0;
	owner->pid = task->tgid;
	owner->uid = task->cred->uid.val;
	owner->label = label;
	note_whole(sk, owner);
	sweep->claimed++;
}

static __always_inline void claim(struct task_struct *task, struct sock *sk, struct label label,
				  struct class *class, struct sweep *sweep)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	struct owner fresh = {};

	if (owner && is_held(owner, sweep))
		return;
	if (owner && owner->label.class == label.class && class &&
	    owner->instance == class->instance) {
		flag(owner, 0, sweep);
		note_whole(sk, owner);
		return;
	}
	if (!owner || !owner->label.class) {
		fresh.cookie = bpf_get_socket_cookie(sk);
		/* Also for one that was given back: what is written below is the same. */
		owner = bpf_sk_storage_get(&owners, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner)
			return;
		owner->flags = 0;
		flag(owner, OWNER_FOUND, sweep);
		return;
	}
	owner->flags &= ~OWNER_FREE;
	flag(owner, OWNER_MOVED | OWNER_REMARK, sweep);
	take(task, sk, label, class, owner, sweep);
}

/* What nobody else had open either before it was captured is of the captured process. */
static __always_inline void doom(struct task_struct *task, struct sock *sk, struct label label,
				 struct class *class, struct sweep *sweep)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);

	if (!owner || !is_held(owner, sweep) || !(owner->flags & OWNER_FOUND))
		return;
	owner->flags &= ~OWNER_FOUND;
	flag(owner, OWNER_DOOMED | OWNER_REMARK, sweep);
	take(task, sk, label, class, owner, sweep);
}

static __always_inline void release(struct task_struct *task, struct sock *sk, struct sweep *sweep)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	struct class *class;

	/* Of an unmanaged process that has passed it on: what uses it under a label takes it. */
	if (owner)
		owner->flags &= ~OWNER_FOUND;
	if (!owner || !owner->label.class || is_held(owner, sweep))
		return;
	class = get_class(owner->label.class);
	if (owner->label.class == UNDECIDED) {
		/* Its program is unmanaged; what the daemon has opened for it goes on. */
		if (comes_from_inside(&sk->__sk_common))
			return;
	} else if (owner->pid != task->tgid &&
		   (!class || class->instance != owner->instance ||
		    !(class->flags & CLASS_ENDING))) {
		/* Passed on by a captured process. One that outlived its class is nobody's; one that
		 * the process used itself is free with it. */
		return;
	}
	owner->flags |= OWNER_RELEASED | OWNER_REMARK;
	note_whole(sk, owner);
	sweep->released++;
}

/* What the mark of a socket that is given back is to be. */
static __always_inline __u32 free_mark(void *sk, __u32 mark)
{
	struct choice *choice;

	if (!is_ours(mark))
		return mark;
	choice = bpf_sk_storage_get(&choices, sk, 0, 0);
	return choice ? choice->mark : 0;
}

static __always_inline __u32 wanted_mark(struct owner *owner, struct sock *sk)
{
	struct class *class = get_class(owner->label.class);

	return class ? class->mark : free_mark(sk, sk->sk_mark);
}

/* Whether the flows of an MPTCP socket have been ended; told once. */
static __always_inline int has_ended(struct sock *sk)
{
	__u64 address = (__u64)sk;
	struct owner *whole;

	if (sk->sk_protocol != IPPROTO_MPTCP)
		return 0;
	whole = bpf_map_lookup_elem(&wholes, &address);
	if (!whole || !(whole->flags & OWNER_ENDED))
		return 0;
	whole->flags &= ~OWNER_ENDED;
	return 1;
}

static __always_inline void report(struct seq_file *seq, struct task_struct *task, __u32 descriptor,
				   struct sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	struct remark remark = {};

	if (!owner)
		return;
	remark.ended = has_ended(sk);
	if (!remark.ended && !(owner->flags & OWNER_REMARK))
		return;
	if (owner->flags & OWNER_RELEASED)
		owner->label.class = 0;
	owner->flags &= ~OWNER_FLAGS;
	remark.cookie = bpf_get_socket_cookie(sk);
	remark.process = task->tgid;
	remark.descriptor = descriptor;
	remark.mark = wanted_mark(owner, sk);
	bpf_seq_write(seq, &remark, sizeof(remark));
}

SEC("iter/task_file")
int claim_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct settings *set = get_settings();
	struct sweep *sweep = get_sweep();
	struct label label = {};
	struct label *stored;
	struct class *class = 0;
	struct socket *socket;
	struct sock *sk;
	__u32 number;
	__u16 family;

	if (!task || !file || !set || !sweep)
		return 0;
	stored = stored_label(task);
	if (stored)
		label = resolve(stored);
	number = label.class;
	if (number)
		class = bpf_map_lookup_elem(&classes, &number);
	if (!number || (class && class->flags & CLASS_TRACKED)) {
		if (sweep->pass == PASS_CLAIM || sweep->pass == PASS_DOOM)
			return 0;
	} else if (sweep->pass == PASS_RELEASE) {
		return 0;
	}
	if (sweep->pass == PASS_DOOM && number == UNDECIDED)
		return 0;
	if (class && !class->mark)
		class = 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (sk->__sk_common.skc_net.net->net_cookie != set->netns_cookie)
		return 0;
	if (sweep->pass == PASS_CLAIM) {
		if (number == UNDECIDED) {
			/* May be unmanaged as well; what is captured of it stays so. */
			struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);

			if (owner && owner->label.class && !is_held(owner, sweep))
				flag(owner, 0, sweep);
			return 0;
		}
		claim(task, sk, label, class, sweep);
	} else if (sweep->pass == PASS_RELEASE) {
		release(task, sk, sweep);
	} else if (sweep->pass == PASS_DOOM) {
		doom(task, sk, label, class, sweep);
	} else {
		report(ctx->meta->seq, task, ctx->fd, sk);
	}
	return 0;
}
