// SPDX-License-Identifier: Apache-2.0
#include "tests/oracle/oracle.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* mcmesh-oracle: the long run of the check that test_node_gmp_oracle does in short.
 * Exit 0: no difference; 1: one, told on standard output; 2: bad usage. */

static int usage(void)
{
	fputs("usage: mcmesh-oracle [--seed N] [--events N] [--family 4|6|both]\n", stderr);
	return 2;
}

static bool number(const char *text, uint64_t *ret_number)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-')
		return false;
	*ret_number = n;
	return true;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "seed", required_argument, NULL, 's' },
						 { "events", required_argument, NULL, 'e' },
						 { "family", required_argument, NULL, 'f' },
						 { 0 } };
	struct oracle_run run = { .seed = 1, .events = 1000000, .out = stdout };
	const char *family = "both";
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's'   ? !number(optarg, &run.seed)
		    : option == 'e' ? !number(optarg, &run.events)
				    : option != 'f')
			return usage();
		if (option == 'f')
			family = optarg;
	}
	if (optind != argc ||
	    (strcmp(family, "4") && strcmp(family, "6") && strcmp(family, "both")))
		return usage();
	for (int v6 = 0; v6 <= 1; v6++) {
		double start = seconds();
		int r;

		if (strcmp(family, "both") && strcmp(family, v6 ? "6" : "4"))
			continue;
		run.v6 = v6;
		r = oracle_run(&run);
		if (r < 0)
			fprintf(stderr, "mcmesh-oracle: %s\n", strerror(-r));
		if (r)
			return 1;
		printf("%s: seed %" PRIu64 ", %" PRIu64 " events, 0 differences, %.1f s\n",
		       v6 ? "MLD" : "IGMP", run.seed, run.events, seconds() - start);
	}
	return 0;
}
