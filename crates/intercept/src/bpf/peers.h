/* What a program is told of its peer: the resolver that it asked, not the one that stands for it. */
#pragma once

#include "addresses.h"
#include "labels.h"

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
