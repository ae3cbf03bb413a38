/*
 * What was there before a rule: labels of running processes, and sockets that they have open.
 *
 * User space runs these to their end, one after another; see sweep.rs.
 */
#pragma once

#define OWNER_DOOMED (1 << 0)	/* open before its process was captured: to be ended */
#define OWNER_MOVED (1 << 1)	/* under another class than before */
#define OWNER_RELEASED (1 << 2) /* to be given back */
#define OWNER_REMARK (1 << 3)	/* user space sets the mark: not all kinds of sockets have a way here */
#define OWNER_ENDED (1 << 4)	/* in `wholes`: what its flows were is gone */
/* (1 << 5): OWNER_FREE */
#define OWNER_FLAGS 0xff
#define HELD_SHIFT 8 /* above the flags: the last sweep that found it with a captured process */

#define TCP_ESTABLISHED 1
#define TCP_LISTEN 10

enum pass { PASS_CLAIM, PASS_RELEASE, PASS_REPORT };

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

struct relabel {
	__u64 expected; /* zero: none */
	__u64 label;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sweep);
} sweeps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct relabel);
} relabels SEC(".maps");

/* The owners of MPTCP sockets by address: their flows are sockets of the kernel's own, which know
 * nothing but the address. Empty but during a sweep. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct owner);
} wholes SEC(".maps");

extern int bpf_sock_destroy(struct sock_common *sock) __ksym;

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

/* The two ends of a socket, as IPv6 addresses. */
struct ends {
	__be32 source[4];
	__be32 target[4];
	__be16 target_port;
};

static __always_inline void read_ends(struct sock_common *sk, struct ends *ends)
{
	ends->target_port = sk->skc_dport;
	if (sk->skc_family == AF_INET) {
		ends->source[2] = ends->target[2] = bpf_htonl(0xffff);
		ends->source[3] = sk->skc_rcv_saddr;
		ends->target[3] = sk->skc_daddr;
		return;
	}
	bpf_probe_read_kernel(ends->source, 16, &sk->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(ends->target, 16, &sk->skc_v6_daddr);
}

/* The addresses of our device: 198.18.0.1 and 2001:2::1. */
static __always_inline int is_inside(const __be32 *a)
{
	if (is_mapped(a))
		return a[3] == bpf_htonl(0xc6120001);
	return a[0] == bpf_htonl(0x20010002) && a[1] == 0 && a[2] == 0 && a[3] == bpf_htonl(1);
}

/* Whether a flow takes our device: by its route, or where it has none at the moment, as far as its
 * source tells. */
static __always_inline int takes_device(struct sock_common *sk, struct ends *ends, int *known)
{
	struct settings *set = get_settings();
	struct dst_entry *route = BPF_CORE_READ((struct sock *)sk, sk_dst_cache);
	struct net_device *device = BPF_CORE_READ(route, dev);

	*known = device || is_inside(ends->source);
	if (device)
		return set && BPF_CORE_READ(device, ifindex) == set->device;
	return is_inside(ends->source);
}

/* Whether a flow goes where the class does not let it. */
static __always_inline int is_astray(struct owner *owner, struct sock_common *sk)
{
	struct class *class = get_class(owner->label.class);
	struct ends ends = {};
	int known;

	read_ends(sk, &ends);
	if (!ends.target_port || takes_device(sk, &ends, &known))
		return 0;
	/* One that has its mark from the beginning takes the device when it is routed again. */
	if (!known && !(owner->flags & (OWNER_DOOMED | OWNER_MOVED)))
		return 0;
	if (!class || ends.target_port == bpf_htons(DNS_PORT))
		return 1;
	if (is_loopback(ends.target) || is_unspecified(ends.target) ||
	    bpf_map_lookup_elem(&own, ends.target) || is_approved(owner->label.class, ends.target))
		return 0;
	if (is_multicast(ends.target) && class->flags & CLASS_MULTICAST)
		return 0;
	/* It may be one that another machine began. */
	return owner->flags & OWNER_DOOMED || !(class->flags & CLASS_INBOUND);
}

static __always_inline int comes_from_inside(struct sock_common *sk)
{
	struct ends ends = {};
	int known;

	read_ends(sk, &ends);
	return ends.target_port && takes_device(sk, &ends, &known);
}

/* Whether the flow is to be ended. */
static __always_inline int is_over(struct owner *owner, struct sock_common *sk)
{
	if (owner->flags & OWNER_RELEASED)
		return comes_from_inside(sk);
	return is_astray(owner, sk);
}

static __always_inline void note_whole(struct sock *sk, struct owner *owner)
{
	__u64 address = (__u64)sk;

	if (sk->sk_protocol == IPPROTO_MPTCP)
		bpf_map_update_elem(&wholes, &address, owner, BPF_ANY);
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
		flag(owner, OWNER_DOOMED | OWNER_REMARK, sweep);
	} else {
		owner->flags &= ~OWNER_FREE;
		flag(owner, OWNER_MOVED | OWNER_REMARK, sweep);
	}
	owner->instance = class ? class->instance : 0;
	owner->pid = task->tgid;
	owner->uid = task->cred->uid.val;
	owner->label = label;
	note_whole(sk, owner);
	sweep->claimed++;
}

static __always_inline void release(struct sock *sk, struct sweep *sweep)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	struct class *class;

	if (!owner || !owner->label.class || is_held(owner, sweep))
		return;
	class = get_class(owner->label.class);
	if (owner->label.class == UNDECIDED) {
		/* Its program is unmanaged; what the daemon has opened for it goes on. */
		if (comes_from_inside(&sk->__sk_common))
			return;
	} else if (class && class->instance == owner->instance && !(class->flags & CLASS_ENDING)) {
		return;
	}
	owner->flags |= OWNER_RELEASED | OWNER_REMARK;
	note_whole(sk, owner);
	sweep->released++;
}

static __always_inline __u32 wanted_mark(struct owner *owner)
{
	struct class *class = get_class(owner->label.class);

	return class ? class->mark : 0;
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
	remark.mark = wanted_mark(owner);
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
		if (sweep->pass == PASS_CLAIM)
			return 0;
	} else if (sweep->pass == PASS_RELEASE) {
		return 0;
	}
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
		release(sk, sweep);
	} else {
		report(ctx->meta->seq, task, ctx->fd, sk);
	}
	return 0;
}

static __always_inline void end(struct sock_common *sk, struct sweep *sweep)
{
	if (!bpf_sock_destroy(sk))
		sweep->ended++;
}

/* Puts a flow of an MPTCP socket under what that is under. */
static __always_inline struct owner *follow_whole(struct sock_common *sk, struct tcp_sock *tcp)
{
	struct mptcp_subflow_context *flow;
	struct owner *whole, *owner;
	struct owner fresh;
	__u64 address;

	if (!bpf_core_field_exists(tcp->is_mptcp) || !BPF_CORE_READ_BITFIELD_PROBED(tcp, is_mptcp))
		return 0;
	flow = BPF_CORE_READ((struct inet_connection_sock *)tcp, icsk_ulp_data);
	address = (__u64)BPF_CORE_READ(flow, conn);
	whole = bpf_map_lookup_elem(&wholes, &address);
	if (!whole)
		return 0;
	fresh = *whole;
	owner = bpf_sk_storage_get(&owners, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (owner) {
		owner->label = fresh.label;
		owner->instance = fresh.instance;
		owner->flags = fresh.flags;
	}
	return whole;
}

SEC("iter/tcp")
int mend_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct sweep *sweep = get_sweep();
	struct owner *owner, *whole;
	struct tcp_sock *tcp;
	struct class *class;
	__u32 mark = 0;
	int over;

	if (!sk || !sweep)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	whole = follow_whole(sk, tcp);
	owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	if (!owner || !owner->label.class)
		return 0;
	if (sk->skc_state == TCP_LISTEN)
		over = 0;
	else
		over = is_over(owner, sk);
	if (owner->flags & OWNER_REMARK) {
		class = get_class(owner->label.class);
		if (class && !(owner->flags & OWNER_RELEASED) &&
		    !(sk->skc_state == TCP_LISTEN && class->flags & CLASS_INBOUND))
			mark = class->mark;
		bpf_setsockopt(sk, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
		if (owner->flags & OWNER_RELEASED)
			owner->label.class = 0;
		owner->flags &= ~OWNER_FLAGS;
	}
	if (over) {
		end(sk, sweep);
		if (whole)
			whole->flags |= OWNER_ENDED;
	}
	return 0;
}

SEC("iter/udp")
int mend_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sk = (struct sock_common *)ctx->udp_sk;
	struct sweep *sweep = get_sweep();
	struct owner *owner;

	if (!sk || !sweep)
		return 0;
	owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	if (owner && owner->label.class && is_over(owner, sk))
		end(sk, sweep);
	return 0;
}
