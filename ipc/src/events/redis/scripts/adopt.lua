-- Takes a new epoch where that must be, also if somebody else has written where
-- the log is. Returns epoch, offset and the time in ms.
open()
local epoch, offset = top()
if epoch == false or (epoch and (epoch > books.epoch
  or (epoch == books.epoch and offset > books.offset))) then
  begin_anew()
end
return {text(books.epoch), text(books.offset), text(NOW)}
