/*
 * Looks which sockets use targets that are approved by name: flows that say nothing for a long time.
 * All others have noted it themselves, with each packet.
 */
#pragma once

#include "ends.h"

static __always_inline void note_flow(struct sock_common *sk)
{
	struct settings *set = get_settings();
	struct approval *approval;
	struct ends ends = {};
	struct owner *owner;
	__u32 mark, class;
	int known;

	if (!set || sk->skc_net.net->net_cookie != set->netns_cookie)
		return;
	read_ends(sk, &ends);
	if (!ends.target_port || takes_device(sk, &ends, &known))
		return;
	owner = bpf_sk_storage_get(&owners, sk, 0, 0);
	mark = BPF_CORE_READ((struct sock *)sk, sk_mark);
	/* The flows of an MPTCP socket have the mark alone. */
	class = owner && owner->label.class ? owner->label.class : is_ours(mark) ? mark >> 20 : 0;
	approval = class ? approval_of(class, ends.target) : 0;
	if (approval)
		note_use(approval, bpf_ktime_get_ns());
}

SEC("iter/tcp")
int note_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;

	if (sk && bpf_skc_to_tcp_sock(sk))
		note_flow(sk);
	return 0;
}

SEC("iter/udp")
int note_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sk = (struct sock_common *)ctx->udp_sk;

	if (sk)
		note_flow(sk);
	return 0;
}
