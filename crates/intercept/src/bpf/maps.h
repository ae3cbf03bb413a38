/* What the programs and the daemon share: the maps and what is in them. */
#pragma once

#define AF_INET 2
#define AF_INET6 10
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define SOCK_STREAM 1
#define SOCK_RAW 3
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
#define TCP_LISTEN 10
#define PIDTYPE_TGID 1

#define BROKEN_IPV4 (1 << 0)
#define BROKEN_IPV6 (1 << 1)

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

/* What a sweep has found, see sweep.h. */
#define OWNER_DOOMED (1 << 0)	/* open before its process was captured: to be ended */
#define OWNER_MOVED (1 << 1)	/* under another class than before */
#define OWNER_RELEASED (1 << 2) /* to be given back */
#define OWNER_REMARK (1 << 3)	/* user space sets the mark: not all kinds of sockets have a way here */
#define OWNER_ENDED (1 << 4)	/* in `wholes`: what its flows were is gone */
/* Given back while a datagram is on its way to the daemon: others go where they are routed. */
#define OWNER_FREE (1 << 5)
#define OWNER_FOUND (1 << 6) /* with a captured process, and without an owner */
#define OWNER_FLAGS 0xff
#define HELD_SHIFT 8 /* above the flags: the last sweep that found it with a captured process */

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
	__u32 broken;	     /* families whose way to the daemon is not whole: BROKEN_ flags */
	__u32 unused;
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

enum event_kind { EVENT_ENDED = 1, EVENT_SOCKET_CLOSED = 2, EVENT_MOVED = 4, EVENT_EXEC = 5 };

struct event {
	__u32 kind;
	__u32 process; /* EVENT_EXEC: who asks */
	__u64 cookie;  /* EVENT_EXEC: the exec */
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

/* What a program had chosen for a socket before that was captured; zero: nothing. Put back when the
 * socket is. */
struct choice {
	__u32 mark;
	__u32 device;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct choice);
} choices SEC(".maps");

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

/* Why a class reaches a target directly. */
enum approval_state {
	APPROVED_BY_RULE, /* for as long as the rule is there */
	APPROVED_BY_NAME, /* a name that is excluded stands for it, or did; see uses.h */
	APPROVAL_SHUT,	  /* about to be taken back, unless a socket is found that uses it */
};

struct approval {
	__u32 state;
	__u32 used; /* when it was last, see now() */
};

/* Targets that a class reaches directly, the same list as the throw routes of its table. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, struct approval);
} approved SEC(".maps");

/* Sockets that the daemon tries the way with, and how many packets of each have left so far. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u32);
} probes SEC(".maps");

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
