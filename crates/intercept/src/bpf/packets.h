/* The guard: what a captured socket sends and receives, packet by packet. */
#pragma once

#include "addresses.h"
#include "crowd.h"
#include "sockets.h"

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

/* Drops without an error for the sender: a drop with the sign of congestion. */
#define SILENT_DROP 2

#define IPV4_LOOSE_ROUTE 131
#define IPV4_STRICT_ROUTE 137
#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_DESTINATION_OPTIONS 60

/* Whether a packet goes elsewhere than where its address says: a first hop that the class approves
 * of would send it on. What stands before the ports hides them, and no app needs that. */
static __always_inline int is_detoured(struct __sk_buff *skb)
{
	__u8 options[64] = {};
	__u32 length, at = 0;
	__u8 byte;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, 6, &byte, 1))
			return 1;
		return byte == IPV6_HOP_BY_HOP || byte == IPV6_ROUTING ||
		       byte == IPV6_DESTINATION_OPTIONS;
	}
	if (bpf_skb_load_bytes(skb, 0, &byte, 1))
		return 1;
	length = (byte & 0xf) * 4;
	if (length <= 20)
		return 0;
	length -= 20;
	if (length > 40 || bpf_skb_load_bytes(skb, 20, options, length))
		return 1;
	for (int i = 0; i < 40 && at < length; i++) {
		byte = options[at & 63];
		if (byte == IPV4_LOOSE_ROUTE || byte == IPV4_STRICT_ROUTE)
			return 1;
		if (byte == 0)
			return 0;
		if (byte != 1)
			at += options[(at + 1) & 63];
		else
			at++;
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

/* Whether a socket of another kind, made by a program that was undecided, is to be let alone; what
 * is known then is written down, as verdicts are forgotten. One of a managed program stays shut. */
static __always_inline int is_released(struct owner *owner)
{
	struct label label = to_label(*(volatile __u64 *)&owner->label);
	struct label none = {};
	__u32 *class = bpf_map_lookup_elem(&settled, &label.exec);

	if (label.class != UNDECIDED || !class || *class)
		return 0;
	/* Unless it changes hands meanwhile. */
	__sync_val_compare_and_swap((__u64 *)&owner->label, to_word(label), to_word(none));
	return 1;
}

static __always_inline struct bpf_sock *full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
}

/* Whether the daemon itself tries the way; counts that it came so far. */
static __always_inline int is_probe(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u32 *left = bpf_map_lookup_elem(&probes, &cookie);

	if (!left)
		return 0;
	__sync_fetch_and_add(left, 1);
	return 1;
}

extern void *bpf_cast_to_kern_ctx(void *obj) __ksym;

/*
 * Whether the running program sends by this socket. What a timer or another machine sets off runs in
 * whatever program happens to be there, and so does what the kernel sends on its own behalf: for a
 * disk, a file system, a tunnel.
 */
static __always_inline int is_sent_by_program(struct bpf_sock *sk, struct sock *kernel,
					      struct tuple *tuple)
{
	if (BPF_CORE_READ(kernel, sk_user_data) || !BPF_CORE_READ(kernel, sk_use_task_frag))
		return 0;
	/* Not one that a tunnel has put into another packet, which may be sent by anybody. */
	if (tuple->protocol == IPPROTO_TCP)
		return sk->protocol == IPPROTO_TCP && BPF_CORE_READ(kernel, sk_lock.owned);
	if (tuple->protocol == IPPROTO_UDP && sk->protocol == IPPROTO_UDP)
		return tuple->source_port == bpf_htons(sk->src_port);
	return is_other_kind(sk->type, sk->protocol);
}

/* How many descriptors lead to a socket; none for the kernel's own. */
static __always_inline __s64 holders_of(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = BPF_CORE_READ(sk, sk_socket, file);
	struct file___6_13 *newer = (void *)file;
	__s64 count;

	if (!file)
		return 0;
	if (bpf_core_field_exists(newer->f_ref))
		count = BPF_CORE_READ(newer, f_ref.refcnt.counter) + 1;
	else
		count = BPF_CORE_READ(file, f_count.counter);
	/* The call that is going on has it, too, where others could close it meanwhile. */
	if (count > 1 && BPF_CORE_READ(task, files, count.counter) > 1)
		count--;
	/* Being closed. */
	return count > 0 ? count : 1;
}

/* A flow that is cut off is to be told so. */
static __always_inline void ask_for_sweep(void)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return;
	event->kind = EVENT_MOVED;
	event->process = bpf_get_current_pid_tgid() >> 32;
	event->cookie = 0;
	bpf_ringbuf_submit(event, 0);
}

enum { PASS, DROP, LOSE };

/*
 * What a captured program sends by a socket that was open before it was captured, or is another's.
 * Where nobody else has that, it is the program's from here on; else it stays whose it is.
 */
static __always_inline int judge_foreign(struct __sk_buff *skb, struct bpf_sock *sk,
					 struct settings *set)
{
	struct owner owner = {};
	struct tuple tuple = {};
	struct class *class;
	struct label label;
	struct sk_buff *buffer;
	struct sock *kernel;
	__s64 holders;
	int begins;

	if (skb->ifindex == LOOPBACK_IFINDEX || !is_captured(&label, &class))
		return PASS;
	buffer = bpf_cast_to_kern_ctx(skb);
	kernel = BPF_CORE_READ(buffer, sk);
	if (parse(skb, &tuple, &begins) || !is_sent_by_program(sk, kernel, &tuple))
		return PASS;
	holders = holders_of(kernel);
	if (!holders)
		return PASS;
	if (class && set && bpf_get_netns_cookie(skb) == set->netns_cookie && !is_detoured(skb) &&
	    tuple.target_port != bpf_htons(DNS_PORT) &&
	    (use_approved(label.class, tuple.target) ||
	     (class->flags & CLASS_MULTICAST && is_multicast(tuple.target))))
		return PASS;
	if (holders == 1) {
		/* Of one that is undecided, too: until it is known what that is, see is_free(). */
		owner.label = label;
		owner.instance = class ? class->instance : 0;
		owner.pid = bpf_get_current_pid_tgid() >> 32;
		owner.uid = bpf_get_current_uid_gid();
		owner.cookie = bpf_get_socket_cookie(skb);
		bpf_sk_storage_get(&owners, sk, &owner, BPF_SK_STORAGE_GET_F_CREATE);
	}
	/* It may be unmanaged, and send again. */
	if (label.class == UNDECIDED)
		return LOSE;
	if (tuple.protocol == IPPROTO_TCP)
		ask_for_sweep();
	return DROP;
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
		switch (judge_foreign(skb, sk, set)) {
		case DROP:
			return drop(COUNT_EGRESS_DROP);
		case LOSE:
			count(COUNT_EGRESS_DROP);
			return SILENT_DROP;
		}
		/* What carries this mark goes inside or nowhere: answers of the kernel, and probes. */
		if (!set || (skb->ifindex != set->device && skb->mark != set->return_mark) ||
		    bpf_get_netns_cookie(skb) != set->netns_cookie)
			return 1;
		if (skb->ifindex != set->device && skb->ifindex != LOOPBACK_IFINDEX)
			return drop(COUNT_EGRESS_DROP);
		/* Nobody else may begin a flow inside, or speak in one of an app; what the kernel
		 * answers for dead sockets (RST, ICMP) begins none. */
		if (parse(skb, &tuple, &begins))
			return drop(COUNT_EGRESS_DROP);
		return !begins || is_probe(skb) ? 1 : drop(COUNT_EGRESS_DROP);
	}
	if (owner->label.class == UNDECIDED && is_other_kind(sk->type, sk->protocol))
		return is_released(owner) ? 1 : drop(COUNT_EGRESS_DROP);
	class = get_class(owner->label.class);
	if (!set || !class || parse(skb, &tuple, &begins))
		return drop(COUNT_EGRESS_DROP);
	if (bpf_get_netns_cookie(skb) != set->netns_cookie)
		return skb->ifindex == LOOPBACK_IFINDEX ? 1 : drop(COUNT_EGRESS_DROP);
	if (skb->ifindex != set->device && is_free(owner))
		return 1;
	/* As a queue that is full: the program notices nothing. */
	if (skb->ifindex == set->device && tuple.protocol == IPPROTO_UDP &&
	    is_crowding(owner->uid, skb->protocol == bpf_htons(ETH_P_IPV6), skb->len))
		return SILENT_DROP;
	if (skb->ifindex == set->device)
		return !begins || identify(&tuple, owner, class) ? 1 : drop(COUNT_EGRESS_DROP);
	if (tuple.target_port == bpf_htons(DNS_PORT) && begins)
		return drop(COUNT_EGRESS_DROP);
	if (skb->ifindex == LOOPBACK_IFINDEX)
		return 1;
	if (is_detoured(skb))
		return drop(COUNT_EGRESS_DROP);
	if (use_approved(owner->label.class, tuple.target))
		return 1;
	if (class->flags & CLASS_MULTICAST && is_multicast(tuple.target))
		return 1;
	if (class->flags & CLASS_INBOUND && tuple.protocol == IPPROTO_TCP && !begins)
		return 1;
	count(COUNT_EGRESS_DROP);
	/* Sent again a moment later, it goes where the doubt has ended. */
	return is_in_doubt(owner->label.class, tuple.target) ? SILENT_DROP : 0;
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
	if (owner && owner->label.class == UNDECIDED && is_other_kind(sk->type, sk->protocol))
		return is_released(owner) ? 1 : drop(COUNT_INGRESS_DROP);
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
	if (parse(skb, &tuple, &begins) || !use_approved(owner->label.class, tuple.source))
		return drop(COUNT_INGRESS_DROP);
	return 1;
}
