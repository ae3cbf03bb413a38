/* Does to TCP and UDP sockets what the sweep has found. */
#pragma once

#include "sweep.h"

extern int bpf_sock_destroy(struct sock_common *sock) __ksym;

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
		else if (owner->flags & OWNER_RELEASED)
			mark = free_mark(sk, BPF_CORE_READ((struct sock *)sk, sk_mark));
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
