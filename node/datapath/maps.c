/* SPDX-License-Identifier: Apache-2.0 */
#include "node/datapath/internal.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/cleanup.h"

int datapath_map_view(const struct bpf_map *map, struct dp_map_view *ret_view)
{
	size_t element = (bpf_map__value_size(map) + 7) & ~(size_t)7;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t len = (element * bpf_map__max_entries(map) + page - 1) / page * page;
	void *data;

	data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
	if (data == MAP_FAILED)
		return -errno;
	*ret_view = (struct dp_map_view){ data, len };
	return 0;
}

void datapath_map_unview(struct dp_map_view *view)
{
	if (view->data)
		munmap(view->data, view->len);
	*view = (struct dp_map_view){ 0 };
}

int datapath_map_keys(const struct bpf_map *map, void **ret_keys, size_t *ret_n)
{
	size_t size = bpf_map__key_size(map), max = bpf_map__max_entries(map), n = 0;
	_cleanup_free_ char *keys = calloc(max, size);
	int fd = bpf_map__fd(map);

	if (!keys)
		return -ENOMEM;
	/* Bounded: with one writer, us, the walk does not start over. */
	while (n < max) {
		int rc =
			bpf_map_get_next_key(fd, n ? keys + (n - 1) * size : NULL, keys + n * size);

		if (rc == -ENOENT)
			break;
		if (rc < 0)
			return rc;
		n++;
	}
	*ret_keys = TAKE_PTR(keys);
	*ret_n = n;
	return 0;
}

int datapath_map_set(const struct bpf_map *map, const void *key, const void *value)
{
	int rc = bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY);

	return rc == -E2BIG ? -ENOSPC : rc;
}

int datapath_map_get(const struct bpf_map *map, const void *key, void *ret_value)
{
	return bpf_map_lookup_elem(bpf_map__fd(map), key, ret_value);
}

int datapath_map_del(const struct bpf_map *map, const void *key)
{
	return bpf_map_delete_elem(bpf_map__fd(map), key);
}
