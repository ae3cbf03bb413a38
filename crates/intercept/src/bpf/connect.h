/* What happens when a program connects, sends or binds. */
#pragma once

#include "addresses.h"
#include "sockets.h"

static __always_inline int is_alive(struct settings *set, int protocol, int ipv6)
{
	__u32 slot = (protocol == IPPROTO_UDP ? 2 : 0) + (ipv6 ? 1 : 0);
	struct bpf_sock *listener;
	__u32 zero = 0;
	__u64 *last;

	if (set->broken & (ipv6 ? BROKEN_IPV6 : BROKEN_IPV4))
		return 0;
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

/* Notes what adopt() is about to undo. */
static __always_inline int keep_choice(struct bpf_sock *sk)
{
	struct choice none = {};
	struct choice *choice;
	int chosen = sk->mark && !is_ours(sk->mark);

	if (!chosen && !sk->bound_dev_if)
		return 0;
	choice = bpf_sk_storage_get(&choices, sk, &none, BPF_SK_STORAGE_GET_F_CREATE);
	if (!choice)
		return -1;
	if (chosen)
		choice->mark = sk->mark;
	if (sk->bound_dev_if)
		choice->device = sk->bound_dev_if;
	return 0;
}

/* Undoes adopt(). */
static __always_inline int restore_choice(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	struct choice *choice = bpf_sk_storage_get(&choices, sk, 0, 0);
	__u32 mark = choice ? choice->mark : 0;
	__u32 device = choice ? choice->device : 0;

	if (is_ours(sk->mark) && bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		return -1;
	if (!choice)
		return 0;
	/* The device may be gone: as if it had gone before. */
	if (device && !sk->bound_dev_if)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device));
	bpf_sk_storage_delete(&choices, sk);
	return 0;
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
	if (keep_choice(ctx->sk))
		return -1;
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
	/* Not marked: see on_create. The guard is shut for it. */
	if (label->class == UNDECIDED && ctx->sk && is_other_kind(ctx->type, ctx->protocol) &&
	    owner_of(ctx->sk))
		return 0;
	if (adopt(ctx, label, class))
		return ECONNREFUSED;
	if (dns) {
		if (to_stand_in(a, label->class))
			return ECONNREFUSED;
	} else {
		if (is_loopback(a) || is_unspecified(a) || bpf_map_lookup_elem(&own, a) ||
		    use_approved(label->class, a))
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
	int ours;

	if (!ctx->sk)
		return;
	owner = bpf_sk_storage_get(&owners, ctx->sk, 0, 0);
	if (!owner || (owner->label.class && owner->label.class != UNDECIDED))
		return;
	ours = is_ours(ctx->sk->mark);
	if (restore_choice(ctx, ctx->sk) || owner->flags & OWNER_FREE)
		return;
	if (routed && ours && owner->label.class)
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
	if (label.class == UNDECIDED ? ctx->sk && is_ours(ctx->sk->mark) :
				       class && class->flags & CLASS_INBOUND && ctx->user_port)
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
