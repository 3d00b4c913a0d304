-- Takes a new epoch where that must be. Returns epoch, offset and the time in ms.
open()
return {text(books.epoch), text(books.offset), text(NOW)}
