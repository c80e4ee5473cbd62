/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page tokens: EPOCH-REVISION-KIND-SEGMENT-GROUP/NODE/PORT, a position in the
 * order of the keys, not a number of rows, so that a page neither repeats nor
 * skips a row that did not change. Opaque to clients.
 */
#include <errno.h>
#include <inttypes.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <string.h>

#include "controller/mesh_service.h"

#define EPOCH_HEX (2 * EPOCH_LEN + 1)
#define GROUP_HEX 33

static const struct addr no_group;

int page_parse(const struct log *log, enum log_kind kind, uint32_t size, const char *token,
	       struct page *ret_page)
{
	char epoch[EPOCH_HEX], mine[EPOCH_HEX], group[GROUP_HEX];
	struct page page = { .revision = log_revision(log) };
	const char *slash;
	size_t len;
	int end = 0;

	page.size = size && size < MESH_PAGE_MAX ? size : MESH_PAGE_MAX;
	if (!token[0]) {
		*ret_page = page;
		return 0;
	}
	if (sscanf(token, "%32[0-9a-f]-%" SCNu64 "-%" SCNu32 "-%" SCNu32 "-%32[0-9a-f]/%n", epoch,
		   &page.revision, &page.kind, &page.segment, group, &end) != 5 ||
	    !end)
		return -EINVAL;
	sodium_bin2hex(mine, sizeof(mine), log_epoch(log), EPOCH_LEN);
	if (page.kind != kind || strcmp(epoch, mine) != 0 || page.revision > log_revision(log) ||
	    sodium_hex2bin(page.group.b, sizeof(page.group.b), group, strlen(group), NULL, &len,
			   NULL) < 0 ||
	    len != sizeof(page.group.b))
		return -EINVAL;
	token += end;
	slash = strchr(token, '/');
	if (!slash || (size_t)(slash - token) >= sizeof(page.node) ||
	    strlen(slash + 1) >= sizeof(page.port))
		return -EINVAL;
	memcpy(page.node, token, (size_t)(slash - token));
	memcpy(page.port, slash + 1, strlen(slash + 1));
	page.has_position = true;
	*ret_page = page;
	return 0;
}

char *page_token(const struct log *log, struct arena *arena, const struct page *page,
		 const struct log_row *next)
{
	char epoch[EPOCH_HEX], group[GROUP_HEX];

	sodium_bin2hex(epoch, sizeof(epoch), log_epoch(log), EPOCH_LEN);
	sodium_bin2hex(group, sizeof(group), next->key.group.b, sizeof(next->key.group.b));
	return arena_printf(arena, "%s-%" PRIu64 "-%u-%u-%s/%s/%s", epoch, page->revision,
			    next->key.kind, next->key.segment, group, next->node->name,
			    next->key.port);
}

struct log_row *page_seek(const struct log *log, const struct page *page, uint32_t kind,
			  uint32_t segment, const struct addr *group)
{
	if (page->has_position)
		return log_seek(log, kind, page->segment, &page->group, page->node, page->port);
	return log_seek(log, kind, segment, group ? group : &no_group, "", "");
}
