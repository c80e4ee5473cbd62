# SPDX-License-Identifier: Apache-2.0
"""For each rule of tests/check/run, made-up files that break it."""

LONG = "int f(void)\n{\n" + "\tg();\n" * 69 + "}\n"

SAMPLES = {
    "format": [{"common/a.c": "int  f( void ){return 0;}\n"}],
    "pure-engines": [
        {"node/gmp/a.c": "#include <sys/socket.h>\n"},
        {"node/gmp/a.c": "#include <time.h>\n"},
        {"controller/plan/a.h": "#include <grpc/grpc.h>\n"},
        {"controller/plan/a.h": '#include "common/rpc.h"\n'},
        {"node/gmp/a.c": "# include <bpf/libbpf.h>\n"},
        {"node/fib.c": '#include "node/rtnl/rtnl.h"\n'},
    ],
    "no-clock-in-engines": [{"node/gmp/a.c": "\tclock_gettime(CLOCK_MONOTONIC, &ts);\n"}],
    "grpc-in-rpc-only": [{"ctl/main.c": "#include <grpc/grpc.h>\n"}],
    "dependencies-one-way": [
        {"common/a.c": '#include "node/config.h"\n'},
        {"node/gmp/a.c": '#include "node/rtnl/rtnl.h"\n'},
        {"controller/plan/a.c": '#include "controller/store/store.h"\n'},
        {"controller/a.c": '#include "node/config.h"\n'},
    ],
    "function-length": [{"common/a.c": LONG}],
    "file-length": [{"common/a.c": "\n" * 801}],
    "spdx": [
        {"common/a.c": "int a;\n"},
        {"bpf/a.h": "/* SPDX-License-Identifier: Apache-2.0 */\n"},
        {"node/a.c": "/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */\n"},
    ],
    "pragma-once": [{"common/a.h": "int f(void);\n"}],
    "own-header-first": [{"common/a.c": '#include <errno.h>\n#include "common/a.h"\n',
                          "common/a.h": ""}],
    "no-sleep-in-tests": [
        {"tests/e2e/a.py": "    time.sleep(1)\n"},
        {"tests/unit/a.c": "\tusleep(1000);\n"},
        {"tests/e2e/a.sh": "sleep 0.5\n"},
    ],
    "no-unbounded-copies": [{"common/a.c": "\tstrcpy(a, b);\n"}],
    "counters-have-words": [
        {"bpf/a.def": 'DROP_REASON(A, "a", "")\n'},
        {"bpf/a.def": 'X(A, "a", "some words")\nX(A, "a", "some words")\n'},
    ],
    "counters-documented": [{"bpf/a.def": 'X(A, "a", "some words")\n', "docs/counters.md": ""}],
    "metrics-documented": [
        {"node/metrics.def": 'ONE(x, "mcmesh_a", "counter", "some words")\n'},
        {"node/metrics.def": 'ONE(x, "mcmesh_a_total", "gauge", "some words")\n'},
        {"node/metrics.def": 'ONE(x, "mcmesh_a", "gauge", "a")\n'},
    ],
    "shellcheck": [{"dev": "#!/bin/bash\ncd $1\n"}],
    "no-trailing-space": [{"common/a.c": "int a; \n"}],
}
