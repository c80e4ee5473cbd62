# SPDX-License-Identifier: Apache-2.0
foreach(part wire engine proxy)
	mcmesh_fuzzer(fuzz_gmp_${part} SOURCES fuzz/gmp_${part}.c fuzz/gmp_sums.c LIBS mcmesh_gmp)
endforeach()
