/* SPDX-License-Identifier: Apache-2.0 */
#include "node/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sodium/randombytes.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"

#define IDENTITY_TEXT_MAX 128

static int mkdir_parents(const char *path)
{
	char copy[PATH_MAX];

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return -ENAMETOOLONG;
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int parse(const char *text, struct identity *ret_identity)
{
	struct identity id;
	char hex[33];
	size_t len;

	if (sscanf(text, "instance %32[0-9a-f] starts %" SCNu64, hex, &id.start_count) != 2 ||
	    sodium_hex2bin(id.instance, sizeof(id.instance), hex, strlen(hex), NULL, &len, NULL) ||
	    len != sizeof(id.instance))
		return -EINVAL;
	*ret_identity = id;
	return 0;
}

static int write_file(const char *path, const struct identity *id)
{
	char temporary[PATH_MAX + 8], hex[33], text[IDENTITY_TEXT_MAX];
	_cleanup_close_ int fd = -1;
	ssize_t n;
	int len;

	sodium_bin2hex(hex, sizeof(hex), id->instance, sizeof(id->instance));
	len = snprintf(text, sizeof(text), "instance %s starts %" PRIu64 "\n", hex,
		       id->start_count);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	n = write(fd, text, (size_t)len);
	if (n < 0 || fsync(fd) < 0)
		return -errno;
	if (n < len)
		return -ENOSPC;
	return rename(temporary, path) < 0 ? -errno : 0;
}

static int read_file(const char *path, char text[IDENTITY_TEXT_MAX])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, text, IDENTITY_TEXT_MAX - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return 0;
}

int identity_start(const char *state_dir, struct identity *ret_identity, char why[IDENTITY_WHY_MAX])
{
	char path[PATH_MAX], text[IDENTITY_TEXT_MAX];
	struct identity id;
	int r;

	r = mkdir_parents(state_dir);
	if (r < 0) {
		snprintf(why, IDENTITY_WHY_MAX,
			 "cannot make state_dir %s: %s: name another state_dir", state_dir,
			 strerror(-r));
		return r;
	}
	if (snprintf(path, sizeof(path), "%s/identity", state_dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	r = read_file(path, text);
	if (r == -ENOENT) {
		randombytes_buf(id.instance, sizeof(id.instance));
		id.start_count = 0;
	} else if (r < 0) {
		snprintf(why, IDENTITY_WHY_MAX, "cannot read %s: %s", path, strerror(-r));
		return r;
	} else {
		r = parse(text, &id);
		if (r < 0) {
			snprintf(why, IDENTITY_WHY_MAX,
				 "%s is damaged: delete it to give this node a new identity", path);
			return r;
		}
	}
	id.start_count++;
	r = write_file(path, &id);
	if (r < 0) {
		snprintf(why, IDENTITY_WHY_MAX,
			 "cannot write %s: %s: make room there, or name another state_dir", path,
			 strerror(-r));
		return r;
	}
	*ret_identity = id;
	return 0;
}
