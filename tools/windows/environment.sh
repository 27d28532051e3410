# To be sourced: what Wine is to know.
export WINEDEBUG=${WINEDEBUG:--all}
# No offer to install Mono or Gecko; no menu entries; no debugger that waits for somebody.
export WINEDLLOVERRIDES="mscoree=;mshtml=;winemenubuilder.exe=;winedbg.exe="
