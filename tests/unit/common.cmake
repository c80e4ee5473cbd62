# SPDX-License-Identifier: Apache-2.0
foreach(part addr filter digest config log slice)
	mcmesh_test(test_common_${part} SOURCES unit/common/${part}.c LIBS mcmesh_common)
endforeach()
