# Reads the symbols of one target's object files:
# cmake -DNM=nm -DOBJECT=file.o -DTERMS=terms.o -DTARGET=avx512 -P symbols.cmake
#
# The linker keeps one copy of a function that several files define weakly. If it takes the one compiled with AVX-512,
# every machine runs it, at any time; so no function may leave a target's file but in the target's own namespace. And
# nothing there may run when the library is loaded.
execute_process(COMMAND ${NM} -C ${OBJECT} ${TERMS} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${NM} cannot read ${OBJECT} and ${TERMS}")
endif()
string(REPLACE ";" "," symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(seen_table FALSE)
set(wrong "")
foreach(symbol IN LISTS symbols)
  if(symbol MATCHES " [A-Za-z] qkv::${TARGET}::table$")
    set(seen_table TRUE)
  endif()
  if(symbol MATCHES " [TWi] " AND NOT symbol MATCHES "qkv::${TARGET}::")
    list(APPEND wrong "defined for everybody: ${symbol}")
  elseif(symbol MATCHES "_GLOBAL__sub_I_|__cxx_global_var_init")
    list(APPEND wrong "runs when the library is loaded: ${symbol}")
  endif()
endforeach()
if(NOT seen_table)
  list(APPEND wrong "there is no qkv::${TARGET}::table")
endif()
if(wrong)
  list(JOIN wrong "\n  " text)
  message(FATAL_ERROR "target ${TARGET}:\n  ${text}")
endif()
