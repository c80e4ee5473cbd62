/* SPDX-License-Identifier: Apache-2.0 */
/* The seal: PATH-lock, one line of constant length. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "controller/store/sqlite_internal.h"

#define LINE_MAX_BYTES 256

void seal_boot(char ret_boot[SEAL_BOOT_MAX])
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	/* Without it every unclean end counts as a power cut. */
	snprintf(ret_boot, SEAL_BOOT_MAX, "-");
	if (!f)
		return;
	if (fscanf(f, "%39s", ret_boot) != 1)
		snprintf(ret_boot, SEAL_BOOT_MAX, "-");
	fclose(f);
}

static int line_of(const struct seal *seal, char line[LINE_MAX_BYTES])
{
	char epoch[2 * EPOCH_LEN + 1];

	for (size_t i = 0; i < EPOCH_LEN; i++)
		snprintf(epoch + 2 * i, 3, "%02x", seal->epoch[i]);
	return snprintf(line, LINE_MAX_BYTES,
			"mcmesh-store-seal 1 epoch %s starts %020" PRIu64 " ceiling %020" PRIu64
			" clean %d boot %-39s\n",
			epoch, seal->starts, seal->ceiling, seal->clean, seal->boot);
}

/* What is not exactly as it was written says nothing. */
static bool line_read(const char *line, struct seal *seal)
{
	char epoch[2 * EPOCH_LEN + 1], again[LINE_MAX_BYTES], byte[3] = "";
	int clean;

	if (sscanf(line,
		   "mcmesh-store-seal 1 epoch %32s starts %" SCNu64 " ceiling %" SCNu64
		   " clean %d boot %39s",
		   epoch, &seal->starts, &seal->ceiling, &clean, seal->boot) != 5 ||
	    strlen(epoch) != 2 * EPOCH_LEN)
		return false;
	for (size_t i = 0; i < EPOCH_LEN; i++) {
		memcpy(byte, epoch + 2 * i, 2);
		seal->epoch[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	seal->clean = clean == 1;
	line_of(seal, again);
	return strcmp(line, again) == 0;
}

int seal_open(const char *path, struct seal *ret_seal, char why[STORE_WHY_MAX])
{
	_cleanup_close_ int fd = -1;
	struct seal seal = { .fd = -1 };
	char name[PATH_MAX], line[LINE_MAX_BYTES] = "";
	ssize_t n;

	if (snprintf(name, sizeof(name), "%s-lock", path) >= (int)sizeof(name)) {
		snprintf(why, STORE_WHY_MAX, "the store's path is too long");
		return -ENAMETOOLONG;
	}
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0) {
		int r = -errno;

		snprintf(why, STORE_WHY_MAX,
			 "store %.150s: cannot write beside it: %s: make its folder, writable for "
			 "this user, or name another place",
			 path, strerror(-r));
		return r;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		snprintf(why, STORE_WHY_MAX,
			 "store %.150s: another controller has it open: stop that one, or name "
			 "another place",
			 path);
		return -EBUSY;
	}
	n = pread(fd, line, sizeof(line) - 1, 0);
	seal.valid = n > 0 && line_read(line, &seal);
	seal.fd = TAKE_FD(fd);
	*ret_seal = seal;
	return 0;
}

int seal_write(const struct seal *seal)
{
	char line[LINE_MAX_BYTES];
	int n = line_of(seal, line);
	ssize_t written = pwrite(seal->fd, line, (size_t)n, 0);

	if (written != n)
		return written < 0 ? -errno : -ENOSPC;
	if (ftruncate(seal->fd, n) < 0 || fdatasync(seal->fd) < 0)
		return -errno;
	return 0;
}

void seal_close(struct seal *seal)
{
	if (seal->fd >= 0)
		close(seal->fd);
	seal->fd = -1;
}
