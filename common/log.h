/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Log lines of the programs (never of engines or common code): a sentence, then
 * key=value. To the journal when stderr is it, else to stderr. Each call site
 * is limited to a burst of 20 lines in 10 s; what was suppressed is said.
 */
#include <stdbool.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

struct log_site {
	uint64_t window_ms;
	uint32_t lines, suppressed;
};

void log_open(const char *program, enum log_level max_level);
void log_line(struct log_site *site, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_at(level, ...)                            \
	do {                                          \
		static struct log_site _site;         \
		log_line(&_site, level, __VA_ARGS__); \
	} while (0)

#define log_error(...)	 log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	 log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)
