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
	if (parse(skb, &tuple, &begins) || !is_approved(owner->label.class, tuple.source))
		return drop(COUNT_INGRESS_DROP);
	return 1;
}
