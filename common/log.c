/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DOC: where log lines go
 *
 * systemd names, in $JOURNAL_STREAM, the device and inode of the socket that it
 * gave us as stderr. When stderr still is that socket, a line goes to the
 * journal as an entry with its priority; else (a terminal, a file, a container)
 * it goes to stderr as text. Not thread-safe: the loop thread logs.
 */
#include "common/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#define LINE_MAX_BYTES 1024
#define WINDOW_MS      10000
#define WINDOW_LINES   20

static struct {
	const char *program;
	enum log_level max_level;
	bool journal;
} log_state = { .program = "mcmesh", .max_level = LOG_LEVEL_INFO };

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	uintmax_t dev, ino;
	struct stat st;

	if (!stream || sscanf(stream, "%ju:%ju", &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_open(const char *program, enum log_level max_level)
{
	log_state.program = program;
	log_state.max_level = max_level;
	log_state.journal = stderr_is_journal();
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARNING:
		return "warning";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "?";
}

/* One line stays one line: a name from the network may hold anything. */
static void flatten(char *line)
{
	for (char *p = line; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
	}
}

static void emit(enum log_level level, char *line)
{
	flatten(line);
	if (log_state.journal &&
	    sd_journal_send("MESSAGE=%s", line, "PRIORITY=%d", (int)level, "SYSLOG_IDENTIFIER=%s",
			    log_state.program, NULL) >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", log_state.program, level_name(level), line);
}

void log_line(struct log_site *site, enum log_level level, const char *format, ...)
{
	char line[LINE_MAX_BYTES];
	uint64_t now = now_ms();
	uint32_t suppressed = 0;
	va_list args;
	int len;

	if (level > log_state.max_level)
		return;
	if (!site->window_ms || now - site->window_ms >= WINDOW_MS) {
		suppressed = site->suppressed;
		*site = (struct log_site){ .window_ms = now ? now : 1 };
	}
	if (site->lines >= WINDOW_LINES) {
		site->suppressed++;
		return;
	}
	site->lines++;

	va_start(args, format);
	len = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (len < 0)
		return;
	if (suppressed && (size_t)len < sizeof(line))
		snprintf(line + len, sizeof(line) - (size_t)len, " suppressed=%" PRIu32,
			 suppressed);
	emit(level, line);
}
