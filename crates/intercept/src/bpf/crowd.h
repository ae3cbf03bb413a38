/* Datagrams of all users wait in one queue for the daemon: nobody may fill it. */
#pragma once

#include "maps.h"

/* What a user may have waiting, in octets: an eighth of what the queue takes (the kernel doubles what
 * the daemon asks for), a quarter for root. */
#define CROWD_OF_USER (2 << 20)
#define CROWD_OF_ROOT (4 << 20)
/* What a datagram counts besides its octets: of 256 or more the kernel's own queue in front of
 * every device and user would fill, which holds 1000 (netdev_max_backlog). */
#define CROWD_EACH 8192

struct crowd_key {
	__u32 uid;
	__u32 family; /* 0: IPv4, 1: IPv6 */
};

/* What a user has sent since the daemon had nothing left to take. */
struct crowd {
	__u64 round;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct crowd_key);
	__type(value, struct crowd);
} crowds SEC(".maps");

/* The daemon writes another number each time that it has nothing left to take: of IPv4, of IPv6.
 * Behind them stands how many datagrams were too many. */
#define ROUND_DROPPED 2
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} rounds SEC(".maps");

/* Whether a datagram to the daemon is too many of its user's. */
static __always_inline int is_crowding(__u32 uid, __u32 family, __u32 length)
{
	struct crowd_key key = { .uid = uid, .family = family };
	struct crowd *crowd = bpf_map_lookup_elem(&crowds, &key);
	__u64 *round = bpf_map_lookup_elem(&rounds, &family);
	__u64 most = uid ? CROWD_OF_USER : CROWD_OF_ROOT;
	__u32 slot = ROUND_DROPPED;
	struct crowd first = {};
	__u64 *dropped;

	if (!round)
		return 0;
	length += CROWD_EACH;
	if (!crowd) {
		first.round = *round;
		first.octets = length;
		bpf_map_update_elem(&crowds, &key, &first, BPF_ANY);
		return 0;
	}
	if (crowd->round != *round) {
		crowd->round = *round;
		crowd->octets = 0;
	}
	if (crowd->octets + length > most) {
		dropped = bpf_map_lookup_elem(&rounds, &slot);
		if (dropped)
			__sync_fetch_and_add(dropped, 1);
		return 1;
	}
	__sync_fetch_and_add(&crowd->octets, length);
	return 0;
}
