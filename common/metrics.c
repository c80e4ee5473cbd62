/* SPDX-License-Identifier: Apache-2.0 */
#include "common/metrics.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define TEXT_MIN 16384
#define TEXT_MAX (64u << 20)

static const double bounds[METRICS_BUCKETS] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
						0.25,  0.5,    1,     2.5,  5,	   10 };

void metrics_deinit(struct metrics *m)
{
	free(m->text);
	*m = (struct metrics){ 0 };
}

static bool grow(struct metrics *m, size_t more)
{
	size_t cap = m->cap ? m->cap : TEXT_MIN;
	char *text;

	while (cap < m->len + more + 1 && cap <= TEXT_MAX)
		cap *= 2;
	if (cap == m->cap)
		return true;
	text = cap <= TEXT_MAX ? realloc(m->text, cap) : NULL;
	if (!text) {
		m->failed = true;
		return false;
	}
	m->text = text;
	m->cap = cap;
	return true;
}

static void append(struct metrics *m, const char *text, size_t len)
{
	if (m->failed || !grow(m, len))
		return;
	memcpy(m->text + m->len, text, len);
	m->len += len;
	m->text[m->len] = '\0';
}

void metrics_printf(struct metrics *m, const char *format, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(line))
		m->failed = true;
	else
		append(m, line, (size_t)n);
}

void metrics_html(struct metrics *m, const char *text)
{
	for (; *text; text++) {
		if (*text == '<')
			append(m, "&lt;", 4);
		else if (*text == '>')
			append(m, "&gt;", 4);
		else if (*text == '&')
			append(m, "&amp;", 5);
		else if (*text == '"')
			append(m, "&quot;", 6);
		else
			append(m, text, 1);
	}
}

void metrics_family(struct metrics *m, const char *name, const char *type, const char *help)
{
	snprintf(m->family, sizeof(m->family), "%s", name);
	metrics_printf(m, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* The escapes of the format: backslash, quote, line feed. */
static void label(struct metrics *m, const char *name, const char *value, bool first)
{
	metrics_printf(m, "%c%s=\"", first ? '{' : ',', name);
	for (; *value; value++) {
		if (*value == '\n')
			append(m, "\\n", 2);
		else if (*value == '"' || *value == '\\')
			metrics_printf(m, "\\%c", *value);
		else
			append(m, value, 1);
	}
	append(m, "\"", 1);
}

/* Whole numbers whole: 17 digits would show what a sum of doubles loses. */
static void number(struct metrics *m, double value)
{
	if (value >= 0 && value < 9007199254740992.0 && value == (double)(uint64_t)value)
		metrics_printf(m, " %llu\n", (unsigned long long)value);
	else
		metrics_printf(m, " %.12g\n", value);
}

void metrics_sample(struct metrics *m, double value, ...)
{
	const char *name;
	bool first = true;
	va_list ap;

	append(m, m->family, strlen(m->family));
	va_start(ap, value);
	while ((name = va_arg(ap, const char *))) {
		label(m, name, va_arg(ap, const char *), first);
		first = false;
	}
	va_end(ap);
	if (!first)
		append(m, "}", 1);
	number(m, value);
}

void metrics_one(struct metrics *m, const char *name, const char *type, const char *help,
		 double value)
{
	metrics_family(m, name, type, help);
	metrics_sample(m, value, NULL);
}

void metrics_observe_us(struct metrics_histogram *h, uint64_t us)
{
	double seconds = (double)us / 1e6;
	size_t i = 0;

	while (i < METRICS_BUCKETS && seconds > bounds[i])
		i++;
	h->counts[i]++;
	h->sum += seconds;
}

void metrics_histogram(struct metrics *m, const char *name, const char *help,
		       const struct metrics_histogram *h)
{
	uint64_t sum = 0;

	metrics_family(m, name, "histogram", help);
	for (size_t i = 0; i < METRICS_BUCKETS; i++) {
		sum += h->counts[i];
		metrics_printf(m, "%s_bucket{le=\"%g\"}", name, bounds[i]);
		number(m, (double)sum);
	}
	sum += h->counts[METRICS_BUCKETS];
	metrics_printf(m, "%s_bucket{le=\"+Inf\"}", name);
	number(m, (double)sum);
	metrics_printf(m, "%s_sum", name);
	number(m, h->sum);
	metrics_printf(m, "%s_count", name);
	number(m, (double)sum);
}

/* ---- the process ------------------------------------------------------------------- */

static double resident_bytes(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%*d %ld", &pages) != 1)
		pages = 0;
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n < 3 ? 0 : n - 3; /* ".", ".." and the folder itself */
}

/* In seconds since the boot, as the kernel has it. */
static double start_seconds(void)
{
	unsigned long long ticks = 0;
	char line[1024] = "";
	FILE *f = fopen("/proc/self/stat", "re");
	char *p;

	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	/* The 22nd field; the name in parentheses is the second. */
	for (int i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (p)
		ticks = strtoull(p + 1, NULL, 10);
	return (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static double clock_seconds(clockid_t clock)
{
	struct timespec ts = { 0 };

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void metrics_process(struct metrics *m)
{
	double boot = clock_seconds(CLOCK_REALTIME) - clock_seconds(CLOCK_BOOTTIME);

	metrics_family(m, "mcmesh_build_info", "gauge", "Always 1; the version is a label.");
	metrics_sample(m, 1, "version", MCMESH_VERSION, NULL);
	metrics_one(m, "mcmesh_process_resident_memory_bytes", "gauge", "Memory in use.",
		    resident_bytes());
	metrics_one(m, "mcmesh_process_cpu_seconds_total", "counter", "Processor time used.",
		    clock_seconds(CLOCK_PROCESS_CPUTIME_ID));
	metrics_one(m, "mcmesh_process_open_fds", "gauge", "Open files and connections.",
		    open_files());
	metrics_one(m, "mcmesh_process_start_time_seconds", "gauge",
		    "When the process began, in seconds since 1970.", boot + start_seconds());
}
