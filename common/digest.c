/* SPDX-License-Identifier: Apache-2.0 */
#include "common/digest.h"

#include <arpa/inet.h>
#include <sodium/crypto_shorthash_siphash24.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

static_assert(EPOCH_LEN == crypto_shorthash_siphashx24_KEYBYTES, "the epoch keys the hash");

static unsigned __int128 hash(const uint8_t epoch[EPOCH_LEN], const uint8_t *data, size_t len)
{
	uint8_t out[crypto_shorthash_siphashx24_BYTES];
	unsigned __int128 v = 0;

	crypto_shorthash_siphashx24(out, data, len, epoch);
	for (size_t i = 0; i < sizeof(out); i++)
		v = v << 8 | out[i];
	return v;
}

static uint8_t *put(uint8_t *p, const void *data, size_t len)
{
	if (len)
		memcpy(p, data, len);
	return p + len;
}

static unsigned __int128 member_hash(const uint8_t epoch[EPOCH_LEN], uint32_t segment,
				     const char *node, const struct addr *group,
				     const struct filter *f)
{
	size_t node_len = strlen(node) + 1;
	size_t len = 4 + node_len + 16 + 1 + 4 + (size_t)f->n_sources * 16;
	uint32_t segment_be32 = htonl(segment), n_be32 = htonl(f->n_sources);
	uint8_t mode = (uint8_t)f->mode, small[512], *buf = small, *p;
	_cleanup_free_ uint8_t *big = NULL;

	if (len > sizeof(small)) {
		big = malloc(len);
		if (!big)
			abort(); /* a wrong digest would cost the segment a resync for ever */
		buf = big;
	}
	p = put(buf, &segment_be32, 4);
	p = put(p, node, node_len);
	p = put(p, group, 16);
	p = put(p, &mode, 1);
	p = put(p, &n_be32, 4);
	put(p, f->sources, (size_t)f->n_sources * 16);
	return hash(epoch, buf, len);
}

static unsigned __int128 node_hash(const uint8_t epoch[EPOCH_LEN], const char *node,
				   const struct addr *vtep)
{
	size_t node_len = strlen(node) + 1;
	uint8_t buf[272];

	if (node_len > sizeof(buf) - sizeof(*vtep))
		node_len = sizeof(buf) - sizeof(*vtep);
	put(put(buf, node, node_len), vtep, sizeof(*vtep));
	return hash(epoch, buf, node_len + sizeof(*vtep));
}

void digest_add_member(struct digest *d, const uint8_t epoch[EPOCH_LEN], uint32_t segment,
		       const char *node, const struct addr *group, const struct filter *f)
{
	d->sum += member_hash(epoch, segment, node, group, f);
	d->rows++;
}

void digest_del_member(struct digest *d, const uint8_t epoch[EPOCH_LEN], uint32_t segment,
		       const char *node, const struct addr *group, const struct filter *f)
{
	d->sum -= member_hash(epoch, segment, node, group, f);
	d->rows--;
}

void digest_add_node(struct digest *d, const uint8_t epoch[EPOCH_LEN], const char *node,
		     const struct addr *vtep)
{
	d->sum += node_hash(epoch, node, vtep);
	d->rows++;
}

void digest_del_node(struct digest *d, const uint8_t epoch[EPOCH_LEN], const char *node,
		     const struct addr *vtep)
{
	d->sum -= node_hash(epoch, node, vtep);
	d->rows--;
}

void digest_to_wire(const struct digest *d, uint8_t ret_wire[16])
{
	unsigned __int128 v = d->sum;

	for (int i = 15; i >= 0; i--, v >>= 8)
		ret_wire[i] = (uint8_t)v;
}
