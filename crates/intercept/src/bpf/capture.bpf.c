/*
 * Captures what labelled tasks send.
 *
 * A label is put on a task by the daemon and inherited over fork and exec. A socket that a labelled
 * task makes or uses takes the label too, with the mark of its class: routing then brings its
 * packets to the device of this instance and from there to the daemon. The egress guard drops
 * whatever goes anywhere else, and notes for each flow whose it is.
 *
 * Everything here fails closed: what cannot be looked up is refused for labelled tasks, and nothing
 * is done to tasks and sockets without a label.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "kernel.h"

#define AF_INET 2
#define AF_INET6 10
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define SOCK_STREAM 1
#define SOL_IP 0
#define SOL_SOCKET 1
#define SOL_IPV6 41
#define SO_BINDTODEVICE 25
#define SO_MARK 36
#define IP_UNICAST_IF 50
#define SO_BINDTOIFINDEX 62
#define IPV6_UNICAST_IF 76
#define EPERM 1
#define ENETUNREACH 101
#define ECONNREFUSED 111
#define LOOPBACK_IFINDEX 1
#define DNS_PORT 53
#define CLASS_LIMIT 4096
#define UNDECIDED 4094
#define OTHER_MARKS 0x000fffff
#define TCX_NEXT (-1)
#define PF_EXITING 0x4
#define SIGKILL 9
#define PIDTYPE_TGID 1

/* What a class lets its flows do; written by the daemon. */
#define CLASS_OPEN (1 << 0)	   /* flows may begin */
#define CLASS_UDP (1 << 1)	   /* the upstream carries UDP */
#define CLASS_MULTICAST (1 << 2)   /* local networks are excluded, multicast and broadcast with them */
#define CLASS_INBOUND (1 << 3)	   /* others may connect to its apps */
#define CLASS_PERSONAL (1 << 4)	   /* a user chose the proxy: not for programs with other rights */
#define CLASS_TRACKED (1 << 5)	   /* inherited, not captured */
#define CLASS_TOOLS (1 << 6)	   /* every program that its apps start is asked about */
#define CLASS_ENDING (1 << 7)	   /* its sockets are given back by the next sweep */

/* What a task carries. Read and written as one word of eight octets. */
struct label {
	__u16 class; /* zero: looked at, and unmanaged */
	__u16 from;  /* of an undecided one: the class before, or zero */
	__u32 exec;  /* the exec that it was decided or asked for at; zero: given by the daemon */
};

/* Given back while a datagram is on its way to the daemon: others go where they are routed. */
#define OWNER_FREE (1 << 5)

/* The label of a socket, with the task that used it last. */
struct owner {
	struct label label;
	__u32 pid;
	__u32 uid;
	__u64 cookie;
	__u32 instance; /* of the class */
	__u32 flags;	/* what the sweep has found, and its number; see sweep.h */
};

struct class {
	__u32 mark; /* zero: no such class */
	__u32 flags;
	__u32 instance; /* grows each time the number is given to a class */
	__u32 user;	/* whose it is; with CLASS_PERSONAL */
};

struct settings {
	__u64 netns_cookie;  /* the namespace that this instance serves */
	__u64 patience;	     /* how old the heartbeat may be, ns */
	__u32 device;	     /* index of the host's end of the pair */
	__u32 inner_device;  /* index of its other end */
	__u32 return_mark;   /* of packets that come out of the device */
	__u32 ipv6;	     /* whether IPv6 of managed apps goes anywhere */
};

/* Addresses are IPv6; IPv4 ones are v4-mapped. Ports are in network order. */
struct tuple {
	__be32 source[4];
	__be32 target[4];
	__be16 source_port;
	__be16 target_port;
	__u32 protocol;
};

/* One labelled process, as `list_labelled` writes it. */
struct row {
	struct label label;
	__u32 process;
	__u32 uid;
};

struct prefix {
	__u32 length; /* in bits, those of `class` included */
	__be32 class;
	__be32 address[4];
};

enum event_kind { EVENT_ENDED = 1, EVENT_SOCKET_CLOSED = 2, EVENT_EXEC = 3, EVENT_MOVED = 4 };

struct event {
	__u32 kind;
	__u32 process;
	__u64 cookie;
};

enum counter {
	COUNT_REFUSED,	     /* connects and sends turned away: no proxy */
	COUNT_FORBIDDEN,     /* sockets of a kind that managed apps may not have */
	COUNT_EGRESS_DROP,   /* packets that would have gone past the proxy */
	COUNT_INGRESS_DROP,  /* packets from outside to a managed app */
	COUNT_SWALLOWED,     /* socket options that would have led past the proxy */
	COUNT_ORPHAN,	     /* packets inside, with no listener to take them */
	COUNT_DOOR_CLOSED,   /* look-ups by other ways than port 53 */
	COUNT_STRAY,	     /* tasks whose label had to be kept elsewhere */
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* When the daemon was well last: CLOCK_MONOTONIC, ns. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASS_LIMIT);
	__type(key, __u32);
	__type(value, struct class);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct label);
} labels SEC(".maps");

/* Processes whose own label could not be stored at fork: storage is taken without waiting there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct label);
} strays SEC(".maps");

/* Spares everybody else the look-up for as long as there was none. */
int strays_seen;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

/* The verdicts that came after the exec: exec -> class. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} settled SEC(".maps");

/* Whether the daemon has been told of an end that it has not looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ended SEC(".maps");

/* Whose an arriving flow is. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct tuple);
	__type(value, struct owner);
} identities SEC(".maps");

/* Targets that a class reaches directly, the same list as the throw routes of its table. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} approved SEC(".maps");

/* The machine's own addresses, but for loopback. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32[4]);
	__type(value, __u8);
} own SEC(".maps");

/* Resolvers that routing would not bring to the daemon, with the addresses that stand for them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32[4]);
	__type(value, __be32[4]);
} stand_ins SEC(".maps");

/* The way back: from the stand-in to the resolver. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32[4]);
	__type(value, __be32[4]);
} resolvers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} stand_in_count SEC(".maps");

/* TCP over IPv4 and IPv6, UDP over IPv4 and IPv6. The kernel empties a slot when its socket dies. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1048576);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &what);

	if (counter)
		(*counter)++;
}

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline struct class *get_class(__u32 id)
{
	struct class *class = bpf_map_lookup_elem(&classes, &id);

	return class && class->mark ? class : 0;
}

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

/* ---- tasks ---- */

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

#include "exec.h"

/* ---- sockets ---- */

/* A program that changes its user on exec (setuid) must not meet a proxy that a user chose. */
static __always_inline int is_beyond(struct class *class)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return class->flags & CLASS_PERSONAL && task->cred->euid.val != class->user;
}

/* The owner of a socket; none where it was given back. */
static __always_inline struct owner *owner_of(struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);

	return owner && owner->label.class ? owner : 0;
}

SEC("cgroup/sock_create")
int on_create(struct bpf_sock *ctx)
{
	struct owner owner = {};
	struct class *class;
	struct label label;

	if (!is_captured(&label, &class))
		return 1;
	if (!class || is_beyond(class) || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP &&
		       ctx->protocol != IPPROTO_MPTCP)) {
		count(COUNT_FORBIDDEN);
		return 0;
	}
	owner.label = label;
	owner.instance = class->instance;
	owner.pid = bpf_get_current_pid_tgid() >> 32;
	owner.uid = bpf_get_current_uid_gid();
	owner.cookie = bpf_get_socket_cookie(ctx);
	if (!bpf_sk_storage_get(&owners, ctx, &owner, BPF_SK_STORAGE_GET_F_CREATE))
		return 0;
	ctx->mark = class->mark;
	return 1;
}

SEC("cgroup/sock_release")
int on_release(struct bpf_sock *ctx)
{
	struct owner *owner;
	struct event *event;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	owner = owner_of(ctx);
	if (!owner)
		return 1;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 1;
	event->kind = EVENT_SOCKET_CLOSED;
	event->process = owner->pid;
	event->cookie = owner->cookie;
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/* Options that lead packets past the mark's route: the call succeeds and does nothing. */
SEC("cgroup/setsockopt")
int on_setsockopt(struct bpf_sockopt *ctx)
{
	int device = (ctx->level == SOL_SOCKET &&
		      (ctx->optname == SO_BINDTODEVICE || ctx->optname == SO_MARK ||
		       ctx->optname == SO_BINDTOIFINDEX)) ||
		     (ctx->level == SOL_IP && ctx->optname == IP_UNICAST_IF) ||
		     (ctx->level == SOL_IPV6 && ctx->optname == IPV6_UNICAST_IF);
	struct class *class;
	struct label label;

	if (device && is_captured(&label, &class)) {
		count(COUNT_SWALLOWED);
		ctx->optlen = -1;
	} else if (ctx->optlen > 4096) {
		/* The kernel showed us one page only; zero means: use what the program gave. */
		ctx->optlen = 0;
	}
	return 1;
}

/* ---- addresses ---- */

static __always_inline int is_mapped(const __be32 *a)
{
	return a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const __be32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] == bpf_htonl(1);
}

/* connect() to the unspecified address means this machine. */
static __always_inline int is_unspecified(const __be32 *a)
{
	return a[0] == 0 && a[1] == 0 && (a[2] == 0 || is_mapped(a)) && a[3] == 0;
}

static __always_inline int is_multicast(const __be32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       a[3] == bpf_htonl(0xffffffff);
	return (a[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int is_approved(__u32 class, const __be32 *a)
{
	struct prefix key = {
		.length = 160,
		/* An IPv6 block may be wide enough to hold the mapped IPv4 addresses. */
		.class = bpf_htonl(class << 1 | !is_mapped(a)),
		.address = { a[0], a[1], a[2], a[3] },
	};

	return bpf_map_lookup_elem(&approved, &key) != 0;
}

/*
 * Resolvers on this machine and on excluded networks are reached through stand-ins, addresses that
 * routing brings to the daemon: 127.a.b.c as 240.a.b.c, ::1 as 2001:2:0:53::1, others as the next
 * free one of 242.0.0.0/8 and 2001:2:0:53:1::/80.
 */
static __always_inline int to_stand_in(__be32 *a, __u32 class)
{
	int mapped = is_mapped(a);
	__be32 fresh[4] = {};
	__u32 number = 0;
	__be32 *known;
	__u32 *next;

	if (is_unspecified(a))
		a[3] = mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	if (is_loopback(a)) {
		if (mapped) {
			a[3] = (a[3] & bpf_htonl(0x00ffffff)) | bpf_htonl(0xf0000000);
		} else {
			a[0] = bpf_htonl(0x20010002);
			a[1] = bpf_htonl(0x00000053);
			a[3] = bpf_htonl(1);
		}
		return 0;
	}
	if (!bpf_map_lookup_elem(&own, a) && !is_approved(class, a))
		return 0;
	known = bpf_map_lookup_elem(&stand_ins, a);
	if (!known) {
		next = bpf_map_lookup_elem(&stand_in_count, &number);
		if (!next)
			return -1;
		/* Twice as many numbers as entries: the oldest entry is long gone when one returns. */
		number = __sync_fetch_and_add(next, 1) & 0x1fff;
		if (mapped) {
			fresh[2] = bpf_htonl(0xffff);
			fresh[3] = bpf_htonl(0xf2000000 | number);
		} else {
			fresh[0] = bpf_htonl(0x20010002);
			fresh[1] = bpf_htonl(0x00000053);
			fresh[2] = bpf_htonl(0x00010000);
			fresh[3] = bpf_htonl(number);
		}
		if (bpf_map_update_elem(&resolvers, fresh, a, BPF_ANY) ||
		    bpf_map_update_elem(&stand_ins, a, fresh, BPF_ANY))
			return -1;
		known = fresh;
	}
	a[0] = known[0];
	a[1] = known[1];
	a[2] = known[2];
	a[3] = known[3];
	return 0;
}

static __always_inline int from_stand_in(__be32 *a)
{
	__be32 *other;

	if (is_mapped(a) && (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0xf0000000)) {
		a[3] = (a[3] & bpf_htonl(0x00ffffff)) | bpf_htonl(0x7f000000);
		return 1;
	}
	if (a[0] == bpf_htonl(0x20010002) && a[1] == bpf_htonl(0x53) && a[2] == 0 &&
	    a[3] == bpf_htonl(1)) {
		a[0] = 0;
		a[1] = 0;
		return 1;
	}
	other = bpf_map_lookup_elem(&resolvers, a);
	if (!other)
		return 0;
	__builtin_memcpy(a, other, 16);
	return 1;
}

#include "sweep.h"

/* ---- connect and send ---- */

static __always_inline int is_alive(struct settings *set, int protocol, int ipv6)
{
	__u32 slot = (protocol == IPPROTO_UDP ? 2 : 0) + (ipv6 ? 1 : 0);
	struct bpf_sock *listener;
	__u32 zero = 0;
	__u64 *last;

	last = bpf_map_lookup_elem(&heartbeat, &zero);
	/* Signed: the daemon may write a later time than the one that we have read. */
	if (!last || (__s64)(bpf_ktime_get_ns() - *last) > (__s64)set->patience)
		return 0;
	listener = bpf_map_lookup_elem(&listeners, &slot);
	if (!listener)
		return 0;
	bpf_sk_release(listener);
	return 1;
}

/* Takes the socket under the label, also one that was made before its task had it. */
static __always_inline int adopt(struct bpf_sock_addr *ctx, struct label *label,
				 struct class *class)
{
	__u32 mark = class->mark;
	struct owner *owner;
	struct owner fresh = {};
	char none[16] = {};

	if (!ctx->sk)
		return -1;
	owner = bpf_sk_storage_get(&owners, ctx->sk, 0, 0);
	if (!owner) {
		fresh.cookie = bpf_get_socket_cookie(ctx);
		owner = bpf_sk_storage_get(&owners, ctx->sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner)
			return -1;
	}
	if (ctx->sk->mark != mark && bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		return -1;
	owner->label = *label;
	owner->instance = class->instance;
	owner->flags = 0;
	if (ctx->sk->bound_dev_if)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none));
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = bpf_get_current_uid_gid();
	return 0;
}

/* Zero, or the error that the program is told. `a` and `port` may be moved to a stand-in. */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct label *label,
				 struct class *class, __be32 *a)
{
	struct settings *set = get_settings();
	int dns = ctx->user_port == bpf_htons(DNS_PORT);
	int ipv6 = !is_mapped(a);

	if (!set || !class)
		return ECONNREFUSED;
	if (bpf_get_netns_cookie(ctx) != set->netns_cookie)
		return is_loopback(a) ? 0 : ENETUNREACH;
	if (is_beyond(class))
		return EPERM;
	if (adopt(ctx, label, class))
		return ECONNREFUSED;
	if (dns) {
		if (to_stand_in(a, label->class))
			return ECONNREFUSED;
	} else {
		if (is_loopback(a) || is_unspecified(a) || bpf_map_lookup_elem(&own, a) ||
		    is_approved(label->class, a))
			return 0;
		if (is_multicast(a))
			return class->flags & CLASS_MULTICAST ? 0 : EPERM;
		if (ipv6 && !set->ipv6)
			return ENETUNREACH;
		if (!(class->flags & CLASS_OPEN))
			return ECONNREFUSED;
		if (ctx->protocol == IPPROTO_UDP && !(class->flags & CLASS_UDP))
			return ECONNREFUSED;
	}
	if (!is_alive(set, ctx->protocol, ipv6))
		return ECONNREFUSED;
	return 0;
}

static __always_inline int refuse(int error)
{
	count(COUNT_REFUSED);
	bpf_set_retval(-error);
	return 0;
}

static __always_inline void read_ipv6(struct bpf_sock_addr *ctx, __be32 *a)
{
	a[0] = ctx->user_ip6[0];
	a[1] = ctx->user_ip6[1];
	a[2] = ctx->user_ip6[2];
	a[3] = ctx->user_ip6[3];
}

static __always_inline void write_ipv6(struct bpf_sock_addr *ctx, const __be32 *a)
{
	ctx->user_ip6[0] = a[0];
	ctx->user_ip6[1] = a[1];
	ctx->user_ip6[2] = a[2];
	ctx->user_ip6[3] = a[3];
}

/*
 * A socket of an unmanaged program that was made while that was undecided, or whose class ended.
 * What is being sent unconnected has its route already: that one still goes to the daemon.
 */
static __always_inline void give_back(struct bpf_sock_addr *ctx, int routed)
{
	struct owner *owner;
	__u32 none = 0;

	if (!ctx->sk || !ctx->sk->mark || ctx->sk->mark & OTHER_MARKS)
		return;
	owner = bpf_sk_storage_get(&owners, ctx->sk, 0, 0);
	if (!owner || (owner->label.class && owner->label.class != UNDECIDED))
		return;
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &none, sizeof(none)))
		return;
	if (routed && owner->label.class)
		owner->flags |= OWNER_FREE;
	else
		owner->label.class = 0;
}

static __always_inline int on_ipv4(struct bpf_sock_addr *ctx, int routed)
{
	__be32 a[4] = { 0, 0, bpf_htonl(0xffff), 0 };
	struct class *class;
	struct label label;
	int error;

	if (!is_captured(&label, &class)) {
		give_back(ctx, routed);
		return 1;
	}
	a[3] = ctx->user_ip4;
	error = judge(ctx, &label, class, a);
	if (error)
		return refuse(error);
	if (a[3] != ctx->user_ip4)
		ctx->user_ip4 = a[3];
	return 1;
}

static __always_inline int on_ipv6(struct bpf_sock_addr *ctx, int routed)
{
	struct class *class;
	struct label label;
	__be32 a[4];
	int error;

	if (!is_captured(&label, &class)) {
		give_back(ctx, routed);
		return 1;
	}
	read_ipv6(ctx, a);
	error = judge(ctx, &label, class, a);
	if (error)
		return refuse(error);
	if (a[3] != ctx->user_ip6[3] || a[0] != ctx->user_ip6[0])
		write_ipv6(ctx, a);
	return 1;
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return on_ipv4(ctx, 0);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return on_ipv6(ctx, 0);
}

SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_ipv4(ctx, 1);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return on_ipv6(ctx, 1);
}

/*
 * What a server answers to those who connect to it takes the main table. A socket is not known for
 * a server's before listen(), which has no hook; one that connects after bind() gets its mark back.
 */
static __always_inline int on_bind(struct bpf_sock_addr *ctx)
{
	struct class *class;
	struct label label;
	__u32 none = 0;

	if (!is_captured(&label, &class)) {
		give_back(ctx, 0);
		return 1;
	}
	if (ctx->type != SOCK_STREAM)
		return 1;
	/* An undecided one may turn out to be an unmanaged server; until then the guard is shut. */
	if (label.class == UNDECIDED || (class && class->flags & CLASS_INBOUND && ctx->user_port))
		bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &none, sizeof(none));
	return 1;
}

SEC("cgroup/bind4")
int on_bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/bind6")
int on_bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

/* ---- what the program is told of its peer ---- */

/* Whether the running program may have asked through a stand-in; one that is unmanaged by now may
 * have while it was undecided. */
static __always_inline int has_asked(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(DNS_PORT))
		return 0;
	if (current_label().class)
		return 1;
	return ctx->sk && bpf_sk_storage_get(&owners, ctx->sk, 0, 0);
}

static __always_inline int tell_ipv4(struct bpf_sock_addr *ctx)
{
	__be32 a[4] = { 0, 0, bpf_htonl(0xffff), 0 };

	if (!has_asked(ctx))
		return 1;
	a[3] = ctx->user_ip4;
	if (from_stand_in(a))
		ctx->user_ip4 = a[3];
	return 1;
}

static __always_inline int tell_ipv6(struct bpf_sock_addr *ctx)
{
	__be32 a[4];

	if (!has_asked(ctx))
		return 1;
	read_ipv6(ctx, a);
	if (from_stand_in(a))
		write_ipv6(ctx, a);
	return 1;
}

SEC("cgroup/recvmsg4")
int on_recvmsg4(struct bpf_sock_addr *ctx)
{
	return tell_ipv4(ctx);
}

SEC("cgroup/recvmsg6")
int on_recvmsg6(struct bpf_sock_addr *ctx)
{
	return tell_ipv6(ctx);
}

SEC("cgroup/getpeername4")
int on_getpeername4(struct bpf_sock_addr *ctx)
{
	return tell_ipv4(ctx);
}

SEC("cgroup/getpeername6")
int on_getpeername6(struct bpf_sock_addr *ctx)
{
	return tell_ipv6(ctx);
}

/* ---- packets ---- */

struct ports {
	__be16 source;
	__be16 target;
};

/* Reads addresses and, for TCP and UDP, ports. `begins` tells whether a flow may begin here. */
static __always_inline int parse(struct __sk_buff *skb, struct tuple *tuple, int *begins)
{
	__u32 offset;
	struct ports ports;
	__u8 byte;

	*begins = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, &byte, 1))
			return -1;
		offset = (byte & 0xf) * 4;
		if (bpf_skb_load_bytes(skb, 9, &byte, 1))
			return -1;
		tuple->source[2] = bpf_htonl(0xffff);
		tuple->target[2] = bpf_htonl(0xffff);
		if (bpf_skb_load_bytes(skb, 12, &tuple->source[3], 4) ||
		    bpf_skb_load_bytes(skb, 16, &tuple->target[3], 4))
			return -1;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		offset = 40;
		if (bpf_skb_load_bytes(skb, 6, &byte, 1) ||
		    bpf_skb_load_bytes(skb, 8, tuple->source, 16) ||
		    bpf_skb_load_bytes(skb, 24, tuple->target, 16))
			return -1;
	} else {
		return -1;
	}
	tuple->protocol = byte;
	if (byte != IPPROTO_TCP && byte != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
		return -1;
	tuple->source_port = ports.source;
	tuple->target_port = ports.target;
	if (byte == IPPROTO_UDP) {
		*begins = 1;
	} else {
		if (bpf_skb_load_bytes(skb, offset + 13, &byte, 1))
			return -1;
		*begins = (byte & 0x12) == 0x02; /* SYN without ACK */
	}
	return 0;
}

static __always_inline int drop(__u32 why)
{
	count(why);
	return 0;
}

/* Notes whose the flow is that begins here. A socket that outlived its class begins none: the number
 * may be another's by now. */
static __always_inline int identify(struct tuple *tuple, struct owner *owner, struct class *class)
{
	struct owner *known = bpf_map_lookup_elem(&identities, tuple);

	if (class->instance != owner->instance)
		return 0;
	if (known && known->cookie == owner->cookie && known->pid == owner->pid &&
	    to_word(known->label) == to_word(owner->label))
		return 1;
	return !bpf_map_update_elem(&identities, tuple, owner, BPF_ANY);
}

/* Whether a socket is free but for what it has sent to the daemon already: of a program that was
 * undecided when it made it, and is unmanaged. */
static __always_inline int is_free(struct owner *owner)
{
	__u32 *class;

	if (owner->flags & OWNER_FREE)
		return 1;
	if (owner->label.class != UNDECIDED)
		return 0;
	class = bpf_map_lookup_elem(&settled, &owner->label.exec);
	return class && !*class;
}

static __always_inline struct bpf_sock *full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);
	struct settings *set;
	struct class *class;
	struct owner *owner;
	struct tuple tuple = {};
	int begins;

	if (!sk)
		return 1;
	owner = owner_of(sk);
	set = get_settings();
	if (!owner) {
		if (!set || skb->ifindex != set->device ||
		    bpf_get_netns_cookie(skb) != set->netns_cookie)
			return 1;
		/* Nobody else may begin a flow inside, or speak in one of an app; what the kernel
		 * answers for dead sockets (RST, ICMP) begins none. */
		return parse(skb, &tuple, &begins) || begins ? drop(COUNT_EGRESS_DROP) : 1;
	}
	class = get_class(owner->label.class);
	if (!set || !class || parse(skb, &tuple, &begins))
		return drop(COUNT_EGRESS_DROP);
	if (bpf_get_netns_cookie(skb) != set->netns_cookie)
		return skb->ifindex == LOOPBACK_IFINDEX ? 1 : drop(COUNT_EGRESS_DROP);
	if (skb->ifindex != set->device && is_free(owner))
		return 1;
	if (skb->ifindex == set->device)
		return !begins || identify(&tuple, owner, class) ? 1 : drop(COUNT_EGRESS_DROP);
	if (tuple.target_port == bpf_htons(DNS_PORT) && begins)
		return drop(COUNT_EGRESS_DROP);
	if (skb->ifindex == LOOPBACK_IFINDEX)
		return 1;
	if (is_approved(owner->label.class, tuple.target))
		return 1;
	if (class->flags & CLASS_MULTICAST && is_multicast(tuple.target))
		return 1;
	if (class->flags & CLASS_INBOUND && tuple.protocol == IPPROTO_TCP && !begins)
		return 1;
	return drop(COUNT_EGRESS_DROP);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);
	struct settings *set;
	struct class *class;
	struct owner *owner;
	struct tuple tuple = {};
	int begins;

	if (!sk)
		return 1;
	owner = owner_of(sk);
	if (!owner || skb->ifindex == LOOPBACK_IFINDEX || is_free(owner))
		return 1;
	set = get_settings();
	class = get_class(owner->label.class);
	if (!set || !class)
		return drop(COUNT_INGRESS_DROP);
	if (skb->ifindex == set->device && bpf_get_netns_cookie(skb) == set->netns_cookie)
		return 1;
	if (class->flags & CLASS_INBOUND)
		return 1;
	if (parse(skb, &tuple, &begins) || !is_approved(owner->label.class, tuple.source))
		return drop(COUNT_INGRESS_DROP);
	return 1;
}

/* ---- the two ends of the pair ---- */

/* What comes back from the namespace carries a mark of ours, so that reverse path checks look into
 * our table and that what the kernel itself answers (fwmark_reflect) goes back inside. */
SEC("tcx/ingress")
int on_return(struct __sk_buff *skb)
{
	struct settings *set = get_settings();

	if (set)
		skb->mark = set->return_mark;
	return TCX_NEXT;
}

SEC("sk_lookup")
int deliver(struct bpf_sk_lookup *ctx)
{
	struct settings *set = get_settings();
	__u32 slot = (ctx->protocol == IPPROTO_UDP ? 2 : 0) + (ctx->family == AF_INET6 ? 1 : 0);
	struct bpf_sock *listener;
	long error;

	if (!set || ctx->ingress_ifindex != set->inner_device)
		return SK_PASS;
	listener = bpf_map_lookup_elem(&listeners, &slot);
	if (!listener) {
		count(COUNT_ORPHAN);
		return SK_DROP;
	}
	error = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	return error ? SK_DROP : SK_PASS;
}

/* ---- other doors of name resolution (Linux 6.7) ---- */

extern void *bpf_cast_to_kern_ctx(void *obj) __ksym;

static __always_inline int starts_with(const char *path, const char *door, int size)
{
	for (int i = 0; i < size; i++)
		if (path[i] != door[i])
			return 0;
	return 1;
}

#define IS_DOOR(path, door) starts_with(path, door, sizeof(door))

SEC("cgroup/connect_unix")
int on_connect_unix(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern;
	char path[64] = {};
	struct class *class;
	struct label label;
	const char *name;

	if (!is_captured(&label, &class))
		return 1;
	kern = bpf_cast_to_kern_ctx(ctx);
	/* Behind the family, sockaddr_un is the path. */
	bpf_probe_read_kernel(path, sizeof(path) - 1, kern->uaddr + 2);
	name = path;
	if (IS_DOOR(name, "/run/systemd/resolve/io.systemd.Resolve") ||
	    IS_DOOR(name, "/var/run/systemd/resolve/io.systemd.Resolve") ||
	    IS_DOOR(name, "/run/nscd/socket") || IS_DOOR(name, "/var/run/nscd/socket")) {
		count(COUNT_DOOR_CLOSED);
		bpf_set_retval(-ECONNREFUSED);
		return 0;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
